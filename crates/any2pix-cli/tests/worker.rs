//! The worker from outside: one reply a request, whatever the request is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};
use support::{Bench, SMALL, ends_with, rows};

struct Running {
    child: Child,
    input: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Running {
    fn start(bench: &Bench) -> Self {
        let mut args = vec!["worker", "--stdio"];
        args.extend(SMALL);
        let mut command = bench.any2pix(&args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, replies }
    }

    fn send(&mut self, line: &[u8]) {
        self.input.write_all(line).unwrap();
        self.input.write_all(b"\n").unwrap();
    }

    fn reply(&mut self) -> Value {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(request.to_string().as_bytes());
        self.reply()
    }

    /// The end of the input; no reply may be left.
    fn end(mut self) {
        drop(self.input);
        let mut rest = String::new();
        self.replies.read_line(&mut rest).unwrap();
        assert_eq!(rest, "", "a reply that nobody asked for");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

fn edit(id: &str) -> Value {
    json!({"id": id, "instruction": "snow in [it]", "references": {"it": "park.png"},
        "output": format!("{id}.png")})
}

#[test]
fn bad_lines_get_a_reply_and_the_worker_goes_on() {
    let bench = Bench::new();
    let mut worker = Running::start(&bench);
    let long = format!(r#"{{"id": "{}"}}"#, "a".repeat(1 << 20));
    let cases: [(&[u8], &str); 12] = [
        (b"nonsense", "column"),
        (b"{\"id\": \"\xff\"}", "byte 19 of the input is not UTF-8"),
        (long.as_bytes(), "longer than 1024 KB"),
        (br#"{"id": "a", "id": "b"}"#, "stands twice"),
        (br#"{"id": "x", "extra": 1}"#, "unknown field"),
        (br#"{"id": "x"}"#, "needs `instruction` and `output`"),
        (br#"{"id": "x", "instruction": "snow"}"#, "needs `instruction` and `output`"),
        (br#"{"cancel": "nobody"}"#, "nothing of this id"),
        (br#"{"id": "x", "instruction": "snow in [a", "output": "x.png"}"#, "never closed"),
        (br#"{"id": "x", "instruction": "snow in [no.png]", "output": "x.png"}"#, "no.png"),
        (br#"{"id": "x", "instruction": "snow in [park.png]", "output": "park.png"}"#, "an input"),
        (br#"{"id": "x", "instruction": "snow", "output": "x.png"}"#, "names none"),
    ];
    for (line, words) in cases {
        worker.send(b"");
        worker.send(line);
        let reply = worker.reply();
        assert_eq!((&reply["status"], &reply["class"]), (&json!("failed"), &json!("refused")));
        assert!(reply["error"].as_str().unwrap().contains(words), "{words}: {reply}");
    }
    let reply = worker.ask(&edit("good"));
    assert_eq!((&reply["id"], &reply["status"]), (&json!("good"), &json!("done")), "{reply}");
    worker.end();
    // What the same edit alone would have written.
    let mut args = vec!["edit", "snow in [image1]", "--image", "park.png", "-o", "alone.png"];
    args.extend(SMALL);
    ends_with(bench.any2pix(&args), 0);
    let picture = |name: &str| image::open(bench.path(name)).unwrap().to_rgb8();
    assert_eq!(picture("good.png"), picture("alone.png"));
}

#[test]
fn a_request_is_cancelled_while_it_runs_or_waits() {
    let bench = Bench::new();
    let mut worker = Running::start(&bench);
    let mut long = edit("long");
    long["settings"] = json!({"steps": 1000});
    worker.send(long.to_string().as_bytes());
    worker.send(edit("waits").to_string().as_bytes());
    worker.send(br#"{"cancel": "waits"}"#);
    worker.send(br#"{"cancel": "long"}"#);
    worker.send(edit("next").to_string().as_bytes());
    for (id, status) in [("long", "cancelled"), ("waits", "cancelled"), ("next", "done")] {
        let reply = worker.reply();
        assert_eq!((&reply["id"], &reply["status"]), (&json!(id), &json!(status)), "{reply}");
    }
    assert!(!bench.path("long.png").exists() && !bench.path("waits.png").exists());
    // An id is free again once it is answered.
    assert_eq!(worker.ask(&edit("long"))["status"], "done");
    worker.end();
}

#[test]
fn shards_of_a_batch_are_what_the_command_makes_of_them() {
    let bench = Bench::new();
    bench.write("m.jsonl", &rows(8));
    ends_with(bench.batch("m.jsonl", "alone", &[]), 0);
    let mut worker = Running::start(&bench);
    let request = |shard: usize, resume: bool| {
        json!({"id": "b", "batch": {"manifest": "m.jsonl", "out": "out", "shards": 2,
            "shard": shard, "resume": resume}})
    };
    for shard in [1, 0] {
        let reply = worker.ask(&request(shard, false));
        assert_eq!((&reply["status"], &reply["shard"]), (&json!("done"), &json!(shard)), "{reply}");
        assert_eq!(reply["skipped"], 0);
    }
    let again = worker.ask(&request(0, false));
    assert!(again["error"].as_str().unwrap().contains("begun before"), "{again}");
    let again = worker.ask(&request(0, true));
    assert_eq!(again["skipped"], again["rows"], "{again}");
    std::fs::write(bench.path("bad.jsonl"), "{}\n{}").unwrap();
    let bad = worker.ask(&json!({"batch": {"manifest": "bad.jsonl", "out": "bad"}}));
    assert_eq!(bad["faults"].as_array().unwrap().len(), 2, "{bad}");
    worker.end();
    ends_with(bench.any2pix(&["merge", "out"]), 0);
    assert_eq!(bench.results("out"), bench.results("alone"));
}
