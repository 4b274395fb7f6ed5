//! `any2pix cluster` from outside: what is started for each engine, and that it does the batch.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;
use support::{Bench, SMALL, ends_with, rows, stderr};

/// A name that a script must quote.
const MANIFEST: &str = "it's a $HOME.jsonl";

fn submit(bench: &Bench, engine: &str, more: &[&str]) -> Command {
    let mut args = vec!["cluster", "submit", "--engine", engine, MANIFEST, "--out", "out"];
    args.extend(SMALL);
    args.extend(more);
    let mut command = bench.any2pix(&args);
    command.env_remove("ANY2PIX_SHARDS").env_remove("ANY2PIX_THREADS").env("ANY2PIX_SEED", "5");
    command
}

fn printed(bench: &Bench, engine: &str, more: &[&str]) -> String {
    let more = [more, &["--print"]].concat();
    String::from_utf8(ends_with(submit(bench, engine, &more), 0).stdout).unwrap()
}

/// A program called `name` in `bin`, which `submit` will find.
fn program(bench: &Bench, name: &str, script: &str) -> String {
    let bin = bench.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join(name), format!("#!/bin/sh\n{script}")).unwrap();
    std::fs::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display())
}

#[test]
fn every_engine_gets_all_that_a_batch_needs() {
    let bench = Bench::new();
    bench.write(MANIFEST, &rows(8));
    let flags = ["--workers", "3", "--cpus", "2", "--gpus", "1", "--allow-outside"];
    let slurm = printed(&bench, "slurm", &flags);
    for line in ["#SBATCH --array=0-5%3", "#SBATCH --cpus-per-task=2", "#SBATCH --gres=gpu:1"] {
        assert!(slurm.lines().any(|found| found == line), "{line}: {slurm}");
    }
    let settings = ["--model=model", "--seed=5", "--steps=2", "--size=32x32", "--threads=2"];
    for word in ["--requeue", "afterany:$batch", "--allow-outside"].iter().chain(&settings) {
        assert!(slurm.contains(word), "{word}: {slurm}");
    }
    let ray = printed(&bench, "ray", &flags);
    assert!(ray.contains(include_str!("../../../cluster/any2pix_ray.py")));
    let command = ray.lines().last().unwrap();
    let numbers = "--shards 6 --workers 3 --cpus 2 --gpus 1 --allow-outside -- ";
    for word in [numbers].iter().chain(&settings) {
        assert!(command.contains(word), "{word}: {command}");
    }
    let pod = ["--image", "here/any2pix:1", "--claim", "data", "--shards", "5"];
    let kubernetes = printed(&bench, "k8s", &[&flags[..], &pod].concat());
    for text in ["completions: 5\n", "parallelism: 3\n", "nvidia.com/gpu: 1\n", "\"--seed=5\""] {
        assert!(kubernetes.contains(text), "{text}: {kubernetes}");
    }
    let lacking = ends_with(submit(&bench, "k8s", &["--print"]), 2);
    assert!(stderr(&lacking).contains("--image"), "{}", stderr(&lacking));
    assert!(!bench.path("out").exists(), "--print starts nothing");
}

#[test]
fn what_slurm_is_given_does_the_batch() {
    let bench = Bench::new();
    bench.write(MANIFEST, &rows(14));
    let one = ["batch", MANIFEST, "--out", "one", "--seed", "5"];
    ends_with(bench.any2pix(&[&one[..], &SMALL].concat()), 1);
    // Keeps the scripts that it is given and answers as sbatch does.
    let sbatch =
        "n=$(($(cat jobs) + 1)); echo $n >jobs; cat >job-$n; echo \"$@\" >args-$n; echo $n";
    let path = program(&bench, "sbatch", sbatch);
    std::fs::write(bench.path("jobs"), "0").unwrap();
    let mut slurm = submit(&bench, "slurm", &["--shards", "2"]);
    slurm.env("PATH", &path);
    let said = ends_with(slurm, 0).stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "shards: job 1; merge: job 2\n");
    let args = std::fs::read_to_string(bench.path("args-2")).unwrap();
    assert!(args.contains("--dependency=afterany:1"), "{args}");
    let run = |job: &str, index: &str| {
        let mut command = Command::new("sh");
        command.arg(bench.path(job)).current_dir(bench.path(""));
        command.env("SLURM_ARRAY_TASK_ID", index).status().unwrap().code()
    };
    assert_eq!(run("job-1", "0"), Some(0));
    assert_eq!(run("job-2", "0"), Some(1), "a shard is missing");
    assert_eq!(run("job-1", "1"), Some(1), "a row fails");
    assert_eq!(run("job-2", "0"), Some(1), "nothing is missing, and a row failed");
    assert_eq!(bench.results("out"), bench.results("one"));
    let other = ends_with(submit(&bench, "slurm", &["--shards", "3"]), 2);
    assert!(stderr(&other).contains("2 were begun"), "{}", stderr(&other));
    let again = printed(&bench, "slurm", &["--workers", "9"]);
    assert!(again.contains("--array=0-1%2"), "{again}");
}

#[test]
fn what_cannot_start_is_refused() {
    let bench = Bench::new();
    bench.write(MANIFEST, &[json!({"id": "a"})]);
    let bad = ends_with(submit(&bench, "slurm", &[]), 2);
    assert!(stderr(&bad).contains("line 1: missing field"), "{}", stderr(&bad));
    assert!(!bench.path("out").exists(), "nothing starts");
    bench.write(MANIFEST, &rows(3));
    let path = program(&bench, "sbatch", "echo no such partition >&2; exit 1");
    let mut refused = submit(&bench, "slurm", &[]);
    refused.env("PATH", path);
    let text = stderr(&ends_with(refused, 2));
    assert!(text.contains("no such partition") && text.contains("hint: "), "{text}");
    ends_with(submit(&bench, "slurm", &["--workers", "0"]), 2);
    let pod = ["--image", "a", "--claim", "b", "--mount", "model", "--print"];
    let text = stderr(&ends_with(submit(&bench, "k8s", &pod), 2));
    assert!(text.contains("does not hold"), "{text}");
    // Without Ray the driver says so, and its exit code is the command's.
    let mut ray = submit(&bench, "ray", &[]);
    ray.env("PYTHON", "python3").env("PYTHONNOUSERSITE", "1").env("PYTHONPATH", bench.path(""));
    std::fs::write(bench.path("ray.py"), "raise ImportError('none')").unwrap();
    let text = stderr(&ends_with(ray, 2));
    assert!(text.contains("pip install ray"), "{text}");
}
