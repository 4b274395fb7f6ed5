//! `any2pix eval judge` against a chat endpoint on the loopback that can misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

/// What was asked, with the `Authorization` header; and what is answered next, in turn: a status
/// and what the model says.
#[derive(Default)]
struct State {
    asked: Vec<(Value, Option<String>)>,
    next: Vec<(u16, &'static str)>,
}

struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(next: &[(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let next = next.iter().rev().copied().collect();
        let state = Arc::new(Mutex::new(State { next, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &shared);
            }
        });
        Self { url, state }
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }
}

/// A verdict that depends on the question: an edit is shown two pictures, quality one.
fn verdict(request: &Value) -> String {
    let parts = request["messages"][0]["content"].as_array().unwrap();
    let score = if parts.len() == 3 { "[9, 4]" } else { "[9, 10]" };
    format!("{{\"score\": {score}, \"reasoning\": \"so it is\"}}")
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut length, mut key, mut first) = (0, None, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line.as_str(), ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => key = Some(value.trim().to_string()),
            _ if first.is_empty() => first = line.clone(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    assert!(first.starts_with("POST /v1/chat/completions "), "{first}");
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut state = state.lock().unwrap();
    let (status, said) = state.next.pop().unwrap_or((200, ""));
    let said = if said.is_empty() { verdict(&request) } else { said.to_string() };
    state.asked.push((request, key));
    let body = json!({ "choices": [{ "message": { "role": "assistant", "content": said } }] });
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nRetry-After: 0\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// A suite of three items and their stored results: one edited by words, one by a sound without a
/// name, which nobody can judge from pictures, and one that is judged like the first.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("suite")).unwrap();
    fs::create_dir_all(path("run/outputs")).unwrap();
    let (mut rows, mut samples) = (String::new(), String::new());
    for (id, words) in
        [("1", "add a dog to [1.png]"), ("2", "[x.wav] to [2.png]"), ("3", "dim [3.png]")]
    {
        let picture = RgbImage::from_fn(40, 30, |x, y| Rgb([x as u8, y as u8, id.as_bytes()[0]]));
        picture.save(path(&format!("suite/{id}.png"))).unwrap();
        picture.save(path(&format!("run/outputs/{id}.png"))).unwrap();
        let row = json!({
            "id": id, "kind": "add", "operation": "add", "instruction": words,
            "base": format!("{id}.png"), "target": format!("{id}.png"),
        });
        let sample = json!({
            "id": id, "kind": "add", "modality": "text", "instruction": words, "figures": { "l1": 0.5 },
        });
        rows.push_str(&format!("{row}\n"));
        samples.push_str(&format!("{sample}\n"));
    }
    fs::write(path("suite/suite.jsonl"), rows).unwrap();
    fs::write(path("run/samples.jsonl"), samples).unwrap();
    let results = json!({ "run": { "model": "m" }, "absent": {}, "slices": [] });
    fs::write(path("run/results.json"), results.to_string()).unwrap();
    folder
}

fn judge(folder: &Path, url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_any2pix"))
        .args(["eval", "judge", "run", "--suite", "suite", "--judge-url", url])
        .args(["--judge-model", "vision", "--parallel", "1", "--retries", "1", "--json"])
        .current_dir(folder)
        .env("ANY2PIX_JUDGE_KEY", "secret")
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap()
}

fn document(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"))
}

fn samples(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("run/samples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn verdicts_become_figures_and_are_asked_for_once() {
    let folder = folder();
    // Busy, then useless, then a verdict; from then on verdicts.
    let server = Server::start(&[(503, ""), (200, "I like it."), (200, "")]);
    let output = judge(folder.path(), &server.url);
    assert_eq!(output.status.code(), Some(1), "one item cannot be judged");
    let said = document(&output);
    assert_eq!((&said["judged"], &said["asked"]), (&json!(2), &json!(5)), "{said}");
    assert_eq!(said["missing"], json!([["2", "a reference has no words"]]));
    assert_eq!(server.asked(), 6);
    {
        let state = server.state.lock().unwrap();
        assert!(state.asked.iter().all(|(_, key)| key.as_deref() == Some("Bearer secret")));
        let (first, _) = &state.asked[0];
        assert_eq!((&first["model"], &first["temperature"]), (&json!("vision"), &json!(0)));
        let content = &first["messages"][0]["content"];
        let url = content[0]["image_url"]["url"].as_str().unwrap();
        assert!(url.starts_with("data:image/png;base64,"), "{url}");
        let text = content[2]["text"].as_str().unwrap();
        assert!(text.contains("Instruction: add a dog to the image"), "{text}");
        let (again, _) = &state.asked[2];
        assert_eq!(again["messages"][1]["content"], json!("I like it."));
    }
    let rows = samples(folder.path());
    let figures = &rows[0]["figures"];
    assert_eq!((&figures["vie_sc"], &figures["vie_pq"]), (&json!(4.0), &json!(9.0)));
    assert_eq!((&figures["vie_overall"], &figures["l1"]), (&json!(6.0), &json!(0.5)));
    assert_eq!(rows[1]["figures"], json!({ "l1": 0.5 }));
    let results = fs::read_to_string(folder.path().join("run/results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["slices"][0]["figures"]["vie_overall"]["mean"], json!(6.0));
    let why = results["absent"]["vie_overall"].as_str().unwrap();
    assert!(why.starts_with("2 of 3 edits were judged"), "{why}");
    assert!(folder.path().join("run/report.html").is_file());

    let bytes = || {
        ["samples.jsonl", "results.json", "table.md", "report.html"]
            .map(|name| fs::read(folder.path().join("run").join(name)).unwrap())
    };
    let before = bytes();
    // Nothing is asked again, not even by way of an address where nobody answers.
    let output = judge(folder.path(), "http://127.0.0.1:9/v1");
    assert_eq!(document(&output)["asked"], json!(0));
    assert!(before == bytes(), "the same verdicts give the same bytes");
}

#[test]
fn a_judge_that_never_answers_as_asked_leaves_figures_absent_with_why() {
    let folder = folder();
    let server = Server::start(&[(200, "{\"score\": [11, 3], \"reasoning\": \"\"}"); 12]);
    let output = judge(folder.path(), &server.url);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.asked(), 12, "two items, two questions, three attempts");
    let said = document(&output);
    assert_eq!(said["judged"], json!(0));
    assert!(said["missing"][0][1].as_str().unwrap().contains("between 0 and 10"), "{said}");
    assert!(samples(folder.path()).iter().all(|row| row["figures"] == json!({ "l1": 0.5 })));
    let table = fs::read_to_string(folder.path().join("run/table.md")).unwrap();
    assert!(table.contains("- `vie_overall`: 0 of 3 edits were judged"), "{table}");
}

#[test]
fn an_endpoint_that_refuses_is_not_asked_for_every_item() {
    let folder = folder();
    let server = Server::start(&[(401, ""); 20]);
    let output = judge(folder.path(), &server.url);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.asked(), 3);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("refused with status 401"), "{said}");
    assert!(
        !said.contains("secret") && !String::from_utf8_lossy(&output.stderr).contains("secret")
    );
}
