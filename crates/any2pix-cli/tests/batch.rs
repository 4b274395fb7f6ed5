//! Batches from outside: what a manifest may hold, what a run leaves, and how another goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Bench, ends_with, rows, stderr};

fn row(id: &str, instruction: &str) -> String {
    json!({"id": id, "instruction": instruction}).to_string()
}

/// Lines that are wrong, and what is said of each.
fn faults() -> Vec<(Vec<u8>, &'static str)> {
    let park = "make it snow in [park.png]";
    let with = |key: &str, value: Value| {
        let mut row = json!({"id": "", "instruction": park});
        row["id"] = json!(format!("{key}-{value}").chars().take(150).collect::<String>());
        row[key] = value;
        row.to_string()
    };
    let references = |path: &str| {
        json!({"id": path, "instruction": "snow in [x]", "references": {"x": path}}).to_string()
    };
    let many: String = (0..17).map(|n| format!("[{n}.png] ")).collect();
    let texts: Vec<(String, &str)> = vec![
        ("nonsense".into(), "column 2"),
        (r#"{"id": "a", "instruction": "x",}"#.into(), "trailing comma"),
        (r#"{"id": "a", "id": "b", "instruction": "x"}"#.into(), "`id` stands twice"),
        (r#"{"id": "a", "instruction": "x", "settings": {"seed": NaN}}"#.into(), "column"),
        (r#"{"id": "a", "instruction": "x", "settings": {"seed": 1e400}}"#.into(), "out of range"),
        (r#"{"id": "a", "instruction": "\ud800"}"#.into(), "column"),
        (r#"{"id": 5, "instruction": "x"}"#.into(), "expected a string"),
        (r#"{"instruction": "x"}"#.into(), "missing field `id`"),
        (r#"["a", "x"]"#.into(), "expected an object"),
        ("[".repeat(10_000), "nested deeper than 64"),
        (format!(r#"{{"id": "{}"}}"#, "a".repeat(1 << 20)), "longer than 1024 KB"),
        (with("extra", json!(1)), "unknown field `extra`"),
        (with("settings", json!([1, 2])), "`settings`: expected an object"),
        (with("settings", json!({"stepz": 1})), "unknown field `stepz`"),
        (with("settings", json!({"steps": 0})), "settings: steps 0: must be 1 to 1000"),
        (with("settings", json!({"steps": 2.5})), "invalid type"),
        (with("settings", json!({"seed": -1})), "invalid value"),
        (with("turn", json!(1)), "a turn without a session"),
        (with("session", json!("")), "the session's name is empty"),
        (row("", park), "the id is empty"),
        (row("a\0b", park), "control character"),
        (row(&"i".repeat(300), park), "300 characters, 200 is the most"),
        (row("TWICE", park), "is also that of line 1"),
        (row("twice", park), "is also that of line 1"),
        (row("e1", ""), "the instruction is empty"),
        (row("e2", "[park.png]"), "the instruction is empty"),
        (row("e3", "snow in [park.png"), "column 9: this `[` is never closed"),
        (row("e4", "snow ] in [park.png]"), "column 6"),
        (row("e5", "snow [a[b]"), "column 8"),
        (row("e6", "snow []"), "a reference without a name"),
        (row("e7", &"a".repeat(32_001)), "32001 is over the limit of 32000"),
        (row("e8", &format!("use {many}")), "17 is over the limit of 16"),
        (row("l1", "snow in [last]"), "belongs to no session"),
        (
            json!({"id": "l2", "instruction": "snow in [last]", "session": "l"}).to_string(),
            "there is no turn before",
        ),
        (references("../secret.png"), "leaves the manifest's folder"),
        (references("/etc/passwd"), "is an absolute path"),
        (references("/proc/self/environ"), "is an absolute path"),
        (references("file:///etc/passwd"), "is a URL"),
        (references("http://169.254.169.254/"), "is a URL"),
        (references("..\\..\\secret.png"), "No such file"),
        (references("nowhere.png"), "No such file"),
        (references("note.txt"), "note.txt"),
        (references("empty.png"), "is empty"),
        (references("."), "is a directory"),
        (row("m1", "snow in [cut.png]"), "cut.png"),
    ];
    let mut faults: Vec<(Vec<u8>, &str)> =
        texts.into_iter().map(|(text, words)| (text.into_bytes(), words)).collect();
    faults.push((b"{\"id\": \"\xff\"}".to_vec(), "is not UTF-8"));
    faults
}

#[test]
fn every_fault_of_a_manifest_is_named_with_its_line_and_nothing_starts() {
    let bench = Bench::new();
    std::fs::write(bench.path("empty.png"), "").unwrap();
    let whole = std::fs::read(bench.path("park.png")).unwrap();
    std::fs::write(bench.path("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let mut faults = faults();
    let outside = tempfile::NamedTempFile::new().unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path(), bench.path("link.png")).unwrap();
        std::os::unix::fs::symlink("loop.png", bench.path("loop.png")).unwrap();
        faults.push((row("s1", "snow in [link.png]").into_bytes(), "leaves the manifest's folder"));
        faults.push((row("s2", "snow in [loop.png]").into_bytes(), "loop.png"));
    }
    let mut manifest = row("Twice", "snow in [park.png]").into_bytes();
    for (line, _) in &faults {
        manifest.push(b'\n');
        manifest.extend(line);
    }
    std::fs::write(bench.path("bad.jsonl"), &manifest).unwrap();
    let text = stderr(&ends_with(bench.batch("bad.jsonl", "out", &[]), 2));
    for (index, (_, words)) in faults.iter().enumerate() {
        let start = format!("line {}: ", index + 2);
        let said = text.lines().find(|line| line.contains(&start));
        assert!(said.is_some_and(|line| line.contains(words)), "{start}{words}: {said:?}");
    }
    assert_eq!(text.matches("caused by: line").count(), faults.len(), "{text}");
    assert_eq!(text.matches("error: ").count(), 1);
    assert!(!bench.path("out").exists(), "nothing starts");

    let output = ends_with(bench.batch("bad.jsonl", "out", &["--json"]), 2);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"].as_array().unwrap().len(), faults.len() + 1);
}

#[test]
fn turns_and_the_size_of_a_manifest_are_checked() {
    let bench = Bench::new();
    let turn = |id: &str, turn: Value| {
        let mut row = json!({"id": id, "instruction": "snow in [park.png]", "session": "s"});
        if !turn.is_null() {
            row["turn"] = turn;
        }
        row
    };
    let refused = |rows: &[Value], words: &str| {
        bench.write("m.jsonl", rows);
        let text = stderr(&ends_with(bench.batch("m.jsonl", "out", &[]), 2));
        assert!(text.contains(words), "{words}: {text}");
    };
    refused(&[turn("a", json!(1)), turn("b", json!(1))], "line 2: turn 1 is also that of line 1");
    refused(&[turn("a", json!(1)), turn("b", Value::Null)], "line 2: some rows of the session");
    refused(&[], "the manifest has no rows");
    for (args, words) in [
        (&["--shards", "3"][..], "nothing says which shard"),
        (&["--shards", "3", "--shard", "3"], "--shard 3"),
        (&["--shards", "0", "--shard", "0"], "--shards 0"),
    ] {
        bench.write("m.jsonl", &rows(1));
        let text = stderr(&ends_with(bench.batch("m.jsonl", "out", args), 2));
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn lines_end_as_they_like_and_names_of_files_are_safe() {
    let bench = Bench::new();
    let rows = [
        row("../../up", "snow in [park.png]"),
        String::new(),
        row("a b", "snow in [./park.png]"),
        "  ".to_string(),
        row("\u{202e}rtl", r"snow \[here\] in [shop.png]"),
    ];
    let manifest = format!("\u{feff}{}", rows.join("\r\n"));
    std::fs::write(bench.path("m.jsonl"), manifest).unwrap();
    ends_with(bench.batch("m.jsonl", "out", &[]), 0);
    let results = bench.rows("out");
    let ids: Vec<&str> = results.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["../../up", "a b", "\u{202e}rtl"]);
    for row in &results {
        let output = row["output"].as_str().unwrap();
        let name = output.strip_prefix("outputs/").unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{name}");
        let bytes = std::fs::read(bench.path("out").join(output)).unwrap();
        assert_eq!(row["bytes"], bytes.len());
    }
}

#[test]
fn any_number_of_shards_gives_the_same_bytes() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(20));
    ends_with(bench.batch("m.jsonl", "one", &["--jobs", "2"]), 1);
    let expected = bench.results("one");
    // 18 pictures, less what follows from a failed turn, and two lists.
    let done = bench.rows("one").iter().filter(|row| row["status"] == "done").count();
    assert_eq!(expected.len(), done + 2);
    assert!((10..20).contains(&done), "{done}");
    for count in [3usize, 16] {
        let out = format!("of{count}");
        let run = |index: usize| {
            let shards = count.to_string();
            let mut command = bench.batch("m.jsonl", &out, &["--shards", &shards, "-q"]);
            // As Slurm says it; its count is of another kind and is not asked.
            command.env("SLURM_ARRAY_TASK_ID", index.to_string());
            command.env("SLURM_ARRAY_TASK_COUNT", "1");
            let code = command.output().unwrap().status.code();
            assert!([Some(0), Some(1)].contains(&code), "{code:?}");
        };
        // Backwards, and not all at first.
        let late = [1, count - 1];
        (0..count).rev().filter(|index| !late.contains(index)).for_each(run);
        let output = ends_with(bench.any2pix(&["merge", &out]), 1);
        let array = if count == 3 { "--array=1-2" } else { "--array=1,15" };
        assert!(stderr(&output).contains(array), "{}", stderr(&output));
        late.into_iter().for_each(run);
        let output = ends_with(bench.any2pix(&["merge", &out, "--json"]), 1);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&document["status"], &document["missing"]), (&json!("done"), &json!(0)));
        assert_eq!(bench.results(&out), expected, "{count} shards");
    }
}

#[test]
fn turns_follow_each_other_and_a_failed_one_fails_the_rest() {
    let bench = Bench::new();
    let turn = |id: &str, instruction: &str, session: &str, turn: u64| json!({"id": id, "instruction": instruction, "session": session, "turn": turn});
    bench.write(
        "m.jsonl",
        &[
            turn("b3", "snow in [park.png]", "b", 3),
            turn("a2", "rain in [last]", "a", 2),
            turn("a1", "snow in [park.png]", "a", 1),
            turn("b1", "make it snow", "b", 1),
            turn("b2", "rain in [last]", "b", 2),
        ],
    );
    let text = stderr(&ends_with(bench.batch("m.jsonl", "out", &[]), 1));
    assert!(text.contains("5 rows: 2 done, 3 failed"), "{text}");
    assert!(text.contains("2 × an earlier turn failed"), "{text}");
    assert!(text.contains("1 × no picture to edit, for instance b1"), "{text}");
    let results = bench.rows("out");
    let of = |id: &str| results.iter().find(|row| row["id"] == id).unwrap();
    // The second turn saw the first one's picture, to the byte.
    assert_eq!(of("a2")["references"][0]["sha256"], of("a1")["sha256"]);
    for id in ["b2", "b3"] {
        assert!(of(id)["error"].as_str().unwrap().contains("names none"), "{}", of(id));
    }
}

#[test]
fn another_run_does_exactly_the_rest() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(8));
    ends_with(bench.batch("m.jsonl", "out", &[]), 0);
    let (expected, journal) = (bench.results("out"), bench.path("out/part-00000-of-00001.jsonl"));
    let whole = std::fs::read(&journal).unwrap();
    let resumed = |skipped: usize| {
        let output = ends_with(bench.batch("m.jsonl", "out", &["--resume", "--json"]), 0);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["skipped"], skipped, "{document}");
        assert_eq!(bench.results("out"), expected);
    };
    resumed(8);
    assert_eq!(std::fs::read(&journal).unwrap(), whole, "nothing is done twice");
    // A torn last line, without its end or with what a lost page leaves.
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    std::fs::write(&journal, &whole[..last + (whole.len() - last) / 2]).unwrap();
    resumed(7);
    let mut zeros = whole[..last].to_vec();
    zeros.resize(whole.len() - 1, 0);
    zeros.push(b'\n');
    std::fs::write(&journal, &zeros).unwrap();
    resumed(7);
    // A picture that was finished and not journalled, one that is gone, and leftovers.
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    std::fs::write(&journal, &whole[..header]).unwrap();
    std::fs::write(bench.path("out/outputs/.row-0.png.77.tmp"), "half").unwrap();
    resumed(0);
    std::fs::remove_file(bench.path("out/outputs/row-2.png")).unwrap();
    resumed(7);
    // Damage is not repaired by guessing.
    let mut bytes = whole.clone();
    bytes[header + 200] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let text = stderr(&ends_with(bench.batch("m.jsonl", "out", &["--resume"]), 4));
    assert!(text.contains(".jsonl:2: the line is damaged"), "{text}");
}

#[test]
fn results_are_never_mixed() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(2));
    ends_with(bench.batch("m.jsonl", "out", &[]), 0);
    bench.write("other.jsonl", &rows(3));
    let refused = |manifest: &str, out: &str, more: &[&str], words: &str| {
        let text = stderr(&ends_with(bench.batch(manifest, out, more), 2));
        assert!(text.contains(words) && text.contains("hint: "), "{words}: {text}");
    };
    refused("m.jsonl", "out", &[], "was begun before");
    refused("other.jsonl", "out", &["--resume"], "another manifest");
    refused("m.jsonl", "out", &["--resume", "--seed", "4"], "other settings");
    let doctor = ends_with(bench.any2pix(&["doctor", "--json"]), 0).stdout;
    let doctor: Value = serde_json::from_slice(&doctor).unwrap();
    let other = if doctor["precision"] == "bf16" { "f32" } else { "bf16" };
    refused("m.jsonl", "out", &["--resume", "--precision", other], "other settings");
    let shards = ["--resume", "--shards", "2", "--shard", "0"];
    refused("m.jsonl", "out", &shards, "another number of shards");
    std::fs::write(bench.path("model/more.json"), "{}").unwrap();
    refused("m.jsonl", "out", &["--resume"], "another model");
    std::fs::create_dir_all(bench.path("mine/outputs")).unwrap();
    refused("m.jsonl", "mine", &[], "something else");
    let text = stderr(&ends_with(bench.any2pix(&["merge", "mine"]), 2));
    assert!(text.contains("holds no batch"), "{text}");
}

#[test]
fn a_shard_that_another_process_works_on_is_busy() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(2));
    std::fs::create_dir(bench.path("out")).unwrap();
    let lock = bench.path("out/.part-00000-of-00001.lock");
    std::fs::write(&lock, "4321\n").unwrap();
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let text = stderr(&ends_with(bench.batch("m.jsonl", "out", &["--resume"]), 75));
    assert!(text.contains("4321"), "{text}");
    drop(held);
    ends_with(bench.batch("m.jsonl", "out", &["--resume"]), 0);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_fault_of_storage() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(1));
    let text = stderr(&ends_with(bench.batch("m.jsonl", "note.txt/out", &[]), 4));
    assert!(text.contains("note.txt/out") && text.contains("hint: "), "{text}");
}

#[cfg(unix)]
#[test]
fn a_signal_stops_between_steps_and_the_rest_is_done_later() {
    let bench = Bench::new();
    let slow = |n: usize| {
        json!({"id": n.to_string(), "instruction": "snow in [park.png]",
            "settings": {"steps": if n == 0 { 2 } else { 40 }}})
    };
    bench.write("m.jsonl", &(0..4).map(slow).collect::<Vec<_>>());
    ends_with(bench.batch("m.jsonl", "whole", &[]), 0);
    let mut command = bench.batch("m.jsonl", "out", &[]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let journal = bench.path("out/part-00000-of-00001.jsonl");
    let lines = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let start = Instant::now();
    while lines() < 2 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(143), "{text}");
    assert!(text.contains("of 4 rows are done; --resume does the rest"), "{text}");
    ends_with(bench.batch("m.jsonl", "out", &["--resume"]), 0);
    assert_eq!(bench.results("out"), bench.results("whole"));
}
