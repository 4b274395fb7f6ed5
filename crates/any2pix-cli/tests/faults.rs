//! Batches that are killed, and whose writes fail: whatever happens, the results are in the end
//! those of a run that nothing happened to.
//!
//! Some kills and some faults by default; all of them with `ANY2PIX_FAULTS=full`. Faults of system
//! calls need strace; without it that test says so and checks nothing.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did"
)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use any2pix_nn::Generator;
use serde_json::Value;
use support::{Bench, ends_with, rows, stderr};

const JOURNAL: &str = "part-00000-of-00001.jsonl";

fn is_full() -> bool {
    std::env::var_os("ANY2PIX_FAULTS").is_some_and(|value| value == "full")
}

/// What an uninterrupted run comes to in `out`: no row is lost, doubled or torn.
fn assert_whole(bench: &Bench, out: &str, expected: &str, count: usize) {
    assert_eq!(bench.results(out), bench.results(expected));
    let journal = std::fs::read_to_string(bench.path(out).join(JOURNAL)).unwrap();
    assert!(journal.ends_with('\n'));
    let places = journal.lines().skip(1).map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["index"].as_u64().unwrap()
    });
    let places: Vec<u64> = places.collect();
    assert_eq!(places.len(), count, "doubled");
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), count, "lost");
}

/// A batch that is killed at random moments, and begun again each time.
#[test]
fn a_batch_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    let (count, kills) = if is_full() { (200, 200) } else { (24, 12) };
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(count));
    let more = ["--resume", "--jobs", "2", "-q"];
    let run = |out: &str| {
        let mut command = bench.batch("m.jsonl", out, &more);
        command.stdout(Stdio::null());
        command
    };
    let start = Instant::now();
    ends_with(run("whole"), 1);
    let row = start.elapsed().as_secs_f64() / count as f64;
    let start = Instant::now();
    ends_with(run("whole"), 1);
    let beginning = start.elapsed().as_secs_f64();
    // A kill comes while the batch begins, or within its first rows.
    let mut chance = Generator::new(11);
    let (mut killed, mut folders) = (0, 0);
    while killed < kills {
        folders += 1;
        let out = format!("out{folders}");
        while killed < kills {
            let mut child = run(&out).spawn().unwrap();
            let seconds = f64::from(chance.uniform()) * (beginning + 6.0 * row);
            std::thread::sleep(Duration::from_secs_f64(seconds));
            child.kill().unwrap();
            if child.wait().unwrap().signal().is_none() {
                break;
            }
            killed += 1;
        }
        ends_with(run(&out), 1);
        assert_whole(&bench, &out, "whole", count);
    }
    eprintln!("{killed} kills in {folders} batches of {count} rows");
}

/// System calls of the write path, and how many of each are looked at by default.
const CALLS: [(&str, usize); 7] = [
    ("write", 4),
    ("fsync", 4),
    ("fdatasync", 2),
    ("/^rename", 3),
    ("/^mkdir", 2),
    ("flock", 2),
    ("openat", 4),
];

/// Runs the batch with a fault at the `nth` call of each thread; whether it came to that.
fn faulty(bench: &Bench, call: &str, fault: &str, nth: usize) -> (ExitStatus, String) {
    let plain = bench.batch("m.jsonl", "out", &["--resume", "--jobs", "1", "-q"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:{fault}:when={nth}")]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.current_dir(plain.get_current_dir().unwrap());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.stdout(Stdio::null()).output().unwrap();
    (output.status, stderr(&output))
}

/// Most calls of one kind that a thread of the batch makes.
fn most_calls(bench: &Bench, call: &str) -> usize {
    let log = bench.path("strace.log");
    let plain = bench.batch("m.jsonl", "traced", &["--jobs", "1", "-q"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", &format!("trace={call}"), "-o"]).arg(&log);
    command.arg(plain.get_program()).args(plain.get_args());
    command.current_dir(plain.get_current_dir().unwrap()).stdout(Stdio::null());
    command.output().unwrap();
    std::fs::remove_dir_all(bench.path("traced")).unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let mut threads = std::collections::BTreeMap::<&str, usize>::new();
    for thread in text.lines().filter_map(|line| line.split_whitespace().next()) {
        *threads.entry(thread).or_default() += 1;
    }
    threads.into_values().max().unwrap_or(0)
}

/// SIGKILL, EIO and ENOSPC at every call of the write path.
#[test]
fn a_write_that_fails_or_kills_leaves_nothing_torn() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("strace is not installed: no fault was injected");
        return;
    }
    let count = 4;
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(count));
    ends_with(bench.batch("m.jsonl", "whole", &["-q"]), 0);
    for (call, few) in CALLS {
        let most = most_calls(&bench, call);
        assert!(most > 0, "{call} is no call of a batch");
        let step = if is_full() { 1 } else { most.div_ceil(few) };
        let (mut runs, mut killed, mut reported, mut others) = (0, 0, 0, 0);
        for fault in ["signal=KILL", "error=EIO", "error=ENOSPC"] {
            for nth in (1..=most).step_by(step) {
                let (status, text) = faulty(&bench, call, fault, nth);
                runs += 1;
                match status.code() {
                    None | Some(137) => killed += 1,
                    Some(4) => {
                        reported += 1;
                        // The fault may also meet the write of the report itself.
                        let is_said = text.contains("error: ") && text.contains("hint: ");
                        assert!(is_said || call == "write", "{text}");
                    }
                    _ => others += 1,
                }
                ends_with(bench.batch("m.jsonl", "out", &["--resume", "-q"]), 0);
                assert_whole(&bench, "out", "whole", count);
                let _ = std::fs::remove_dir_all(bench.path("out"));
            }
        }
        eprintln!(
            "{call}: {runs} faults at {most} places: {killed} kills, {reported} reported, \
             {others} elsewhere"
        );
        // Most files are opened before the batch begins: a sample may miss those that it makes.
        let is_on_the_way = reported > 0 || (call == "openat" && !is_full());
        assert!(killed > 0 && is_on_the_way, "{call} is not on the way of a write");
    }
}
