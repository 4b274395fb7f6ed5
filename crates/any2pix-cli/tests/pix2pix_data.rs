//! `any2pix data instruct-pix2pix`: a language model on the loopback, a small untrained painter,
//! the embedded model's encoder; stages that are killed and gone on with.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use any2pix_nn::Generator;
use serde_json::{Value, json};
use support::{Bench, ends_with, stderr};

#[derive(Default)]
struct State {
    asked: Vec<Value>,
    keys: Vec<String>,
    is_failing: bool,
}

/// A language model that paints everything red, after a while.
struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that was killed is nobody's fault.
                std::thread::spawn(move || drop(answer(stream, &shared, pause)));
            }
        });
        Self { url, state }
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }
}

fn said(caption: &str) -> String {
    match caption {
        c if c.contains("nonsense") => "I cannot do that.".to_string(),
        c if c.contains("same") => format!("leave it\n%%\n{caption}!"),
        c => format!("make it red\n%%\na red {c}\nEND"),
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, pause: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line.as_str(), ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => key = value.trim().to_string(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body).unwrap();
    let messages = request["messages"].as_array().unwrap();
    let caption = messages[messages.len() - 1]["content"].as_str().unwrap();
    let said = said(caption.strip_suffix("\n##\n").unwrap());
    let is_failing = {
        let mut state = state.lock().unwrap();
        state.asked.push(request.clone());
        state.keys.push(key);
        state.is_failing
    };
    std::thread::sleep(pause);
    let status = if is_failing { 500 } else { 200 };
    let body = json!({ "choices": [{ "message": { "role": "assistant", "content": said } }] });
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// `any2pix data instruct-pix2pix …`
fn data(bench: &Bench, args: &[&str]) -> Command {
    let mut command = bench.any2pix(&[&["data", "instruct-pix2pix"], args].concat());
    command.env("ANY2PIX_LLM_KEY", "secret").env("NO_PROXY", "127.0.0.1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn document(bench: &Bench, args: &[&str], code: i32) -> Value {
    let output = ends_with(data(bench, &[args, &["--json"]].concat()), code);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn triplets_flags(server: &Server) -> [&str; 8] {
    let url = server.url.as_str();
    ["--captions", "captions", "--llm-url", url, "--llm-model", "small", "--retries", "0"]
}

/// The model paints in two steps.
const PAIRS: [&str; 8] = ["--model", "model", "--steps", "2", "--size", "32x32", "--samples", "3"];
/// Everything is kept: nothing is alike that an untrained model paints.
const EVERYTHING: [&str; 6] =
    ["--image-threshold", "-1", "--caption-threshold", "-1", "--direction-threshold", "-1"];

/// Every file under `dir`, but what may differ from run to run: locks, and what a language model
/// was asked in which order.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            assert!(!name.ends_with(".tmp"), "{} is left", path.display());
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with(".lock") && name != "journal.jsonl" {
                let inside = path.strip_prefix(dir).unwrap().display().to_string();
                found.insert(inside, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_language_model_writes_triplets_and_what_is_no_edit_is_given_up() {
    let bench = Bench::new();
    let server = Server::start(Duration::ZERO);
    let captions = [
        r#"{"caption": "a dog", "url": "http://a"}"#,
        "a house",
        "some nonsense",
        "",
        r#"{"TEXT": "another dog", "URL": "http://a"}"#,
        "a house",
        "the same",
    ];
    std::fs::write(bench.path("captions"), captions.join("\n")).unwrap();
    let args = [&["triplets", "--out", "t"][..], &triplets_flags(&server)].concat();
    let said = document(&bench, &args, 0);
    assert_eq!((&said["triplets"], &said["duplicates"]), (&json!(2), &json!(2)), "{said}");
    assert_eq!(said["given_up"], json!({ "not two parts": 1, "nothing changed": 1 }));
    assert_eq!((server.asked(), &said["asked"]), (10, &json!(10)), "four times what is no edit");
    let written = rows(&bench.path("t/triplets.jsonl"));
    let dog = json!({
        "caption": "a dog", "edit": "make it red", "output": "a red a dog", "url": "http://a",
    });
    assert_eq!(written[0], dog);
    assert_eq!((written.len(), &written[1]["url"]), (2, &Value::Null));
    {
        let state = server.state.lock().unwrap();
        assert!(state.keys.iter().all(|key| key == "Bearer secret"));
        let request = &state.asked[0];
        for (name, value) in [
            ("max_tokens", json!(256)),
            ("temperature", json!(0.7)),
            ("frequency_penalty", json!(0.1)),
            ("stop", json!("\nEND")),
            ("model", json!("small")),
        ] {
            assert_eq!(request[name], value, "{name}");
        }
    }
    // Begun, done, of other captions.
    ends_with(data(&bench, &args), 2);
    let again = document(&bench, &[&args[..], &["--resume"]].concat(), 0);
    assert_eq!((&again["asked"], &again["triplets"]), (&json!(0), &json!(2)));
    std::fs::write(bench.path("captions"), "a boat").unwrap();
    let output = ends_with(data(&bench, &[&args[..], &["--resume"]].concat()), 2);
    assert!(stderr(&output).contains("holds results of other captions"), "{}", stderr(&output));
}

#[test]
fn an_endpoint_that_fails_is_not_asked_for_every_caption_and_loses_none() {
    let bench = Bench::new();
    let server = Server::start(Duration::ZERO);
    let captions: Vec<String> = (0..12).map(|n| format!("{n} dogs")).collect();
    std::fs::write(bench.path("captions"), captions.join("\n")).unwrap();
    let one = ["--parallel", "1", "--resume"];
    let args = [&["triplets", "--out", "t"][..], &triplets_flags(&server), &one].concat();
    server.state.lock().unwrap().is_failing = true;
    let said = document(&bench, &args, 1);
    assert_eq!((&said["unanswered"], server.asked()), (&json!(12), 3), "{said}");
    assert!(said["failure"].as_str().unwrap().contains("500"), "{said}");
    assert!(!bench.path("t/triplets.jsonl").exists());
    server.state.lock().unwrap().is_failing = false;
    assert_eq!(document(&bench, &args, 0)["triplets"], json!(12));
    let written = rows(&bench.path("t/triplets.jsonl"));
    let captions_written: Vec<&str> =
        written.iter().map(|row| row["caption"].as_str().unwrap()).collect();
    assert_eq!(captions_written, captions);
}

/// Runs to the end what is killed at random moments; says how often that was.
fn kill_again_and_again(
    bench: &Bench,
    args: &[&str],
    took: Duration,
    chance: &mut Generator,
) -> usize {
    let mut killed = 0;
    for _ in 0..4 {
        let mut child =
            data(bench, args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(took.mul_f32(chance.uniform()));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().signal().is_some());
    }
    ends_with(data(bench, args), 0);
    killed
}

#[test]
fn stages_that_are_killed_again_and_again_end_as_if_they_never_were() {
    let bench = Bench::new();
    let server = Server::start(Duration::from_millis(20));
    let captions: Vec<String> = (0..6).map(|n| format!("{n} dogs")).collect();
    std::fs::write(bench.path("captions"), captions.join("\n")).unwrap();
    let llm = triplets_flags(&server);
    let everything = [&llm[..], &PAIRS, &EVERYTHING, &["--most", "2"]].concat();
    let said = document(&bench, &[&["all", "--out", "whole"], &everything[..]].concat(), 0);
    assert_eq!((&said["triplets"]["triplets"], &said["pairs"]["pairs"]), (&json!(6), &json!(18)));
    assert_eq!(said["filter"]["kept"], json!(12), "{said}");
    let stages: [(&str, Vec<&str>); 3] = [
        ("triplets", [&["triplets", "--resume", "--out", "k/triplets"], &llm[..]].concat()),
        (
            "pairs",
            [&["pairs", "k/triplets/triplets.jsonl", "--resume", "--out", "k/pairs"], &PAIRS[..]]
                .concat(),
        ),
        (
            "data",
            [&["filter", "k/pairs", "--resume", "--out", "k/data", "--most", "2"], &EVERYTHING[..]]
                .concat(),
        ),
    ];
    let mut chance = Generator::new(3);
    let mut killed = 0;
    for (name, args) in &stages {
        // How long it takes is known from a run into another folder.
        let timed: Vec<String> = args
            .iter()
            .map(|arg| match arg.strip_prefix("k/") {
                Some(rest) if rest == *name => format!("timed/{rest}"),
                _ => arg.to_string(),
            })
            .collect();
        let start = Instant::now();
        ends_with(data(&bench, &timed.iter().map(String::as_str).collect::<Vec<_>>()), 0);
        killed += kill_again_and_again(&bench, args, start.elapsed(), &mut chance);
        let (whole, resumed) = (bench.path("whole").join(name), bench.path("k").join(name));
        assert_eq!(files(&whole), files(&resumed), "{name}");
    }
    assert!(killed > 2, "{killed}");

    // Two shards in any order give the pairs and the list of one; each says what is to come.
    let triplets = "whole/triplets/triplets.jsonl";
    for shard in ["1", "0"] {
        let more = ["--shards", "2", "--shard", shard];
        let pairs = [&["pairs", triplets, "--out", "s/pairs"], &PAIRS[..], &more].concat();
        assert_eq!(document(&bench, &pairs, 0)["triplets"], json!(3));
    }
    for (shard, missing) in [("1", 3), ("0", 0)] {
        let more = ["--shards", "2", "--shard", shard, "--most", "2"];
        let filter = [&["filter", "s/pairs", "--out", "s/data"], &EVERYTHING[..], &more].concat();
        assert_eq!(document(&bench, &filter, 0)["missing"], json!(missing));
    }
    let without_stage = |dir: &str| {
        let mut files = files(&bench.path(dir));
        assert!(files.remove("stage.json").is_some());
        files
    };
    for name in ["pairs", "data"] {
        assert_eq!(without_stage(&format!("whole/{name}")), without_stage(&format!("s/{name}")));
    }
}

#[test]
fn what_is_kept_lies_as_published_and_says_who_scored_it() {
    let bench = Bench::new();
    bench.write(
        "given.jsonl",
        &[
            json!({ "input": "a dog", "edit": "make it a cat", "output": "a cat" }),
            json!({ "caption": "a beach", "edit": "add a dog", "output": "a dog on a beach" }),
        ],
    );
    let pairs = [&["pairs", "given.jsonl", "--out", "pairs"], &PAIRS[..]].concat();
    ends_with(data(&bench, &pairs), 0);
    let metadata = rows(&bench.path("pairs/0000001/metadata.jsonl"));
    assert_eq!(metadata.len(), 3);
    for row in &metadata {
        assert!((0.1..0.9).contains(&row["p2p_threshold"].as_f64().unwrap()), "{row}");
        assert!((7.5..15.0).contains(&row["cfg_scale"].as_f64().unwrap()), "{row}");
        for which in [0, 1] {
            let name = format!("pairs/0000001/{}_{which}.jpg", row["seed"]);
            let picture = image::open(bench.path(&name)).unwrap();
            assert_eq!((picture.width(), picture.height()), (32, 32));
        }
    }
    let filter = [&["filter", "pairs", "--out", "data", "--most", "2"], &EVERYTHING[..]].concat();
    ends_with(data(&bench, &filter), 0);
    let list = std::fs::read_to_string(bench.path("data/seeds.json")).unwrap();
    let list: Vec<(String, Vec<String>)> = serde_json::from_str(&list).unwrap();
    assert_eq!(
        list.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["0000000", "0000001"]
    );
    for (name, seeds) in &list {
        let folder = bench.path("data").join(name);
        let kept = rows(&folder.join("metadata.jsonl"));
        assert_eq!((kept.len(), seeds.len()), (2, 2));
        let direction = |row: &Value| row["playroom_sim_dir"].as_f64().unwrap();
        assert!(direction(&kept[0]) >= direction(&kept[1]), "the best comes first");
        for figure in ["playroom_sim_0", "playroom_sim_1", "playroom_sim_image"] {
            assert!(kept[0][figure].as_f64().unwrap().abs() <= 1.0 + 1e-6, "{figure}");
        }
        assert!(seeds.windows(2).all(|two| two[0] < two[1]));
        for (seed, which) in seeds.iter().flat_map(|seed| [(seed, 0), (seed, 1)]) {
            assert!(folder.join(format!("{seed}_{which}.jpg")).is_file());
        }
        let prompt = std::fs::read_to_string(folder.join("prompt.json")).unwrap();
        let prompt: Value = serde_json::from_str(&prompt).unwrap();
        assert!(["caption", "edit", "output"].iter().all(|key| prompt[key].is_string()));
    }
    let stage = std::fs::read_to_string(bench.path("data/stage.json")).unwrap();
    let stage: Value = serde_json::from_str(&stage).unwrap();
    assert_eq!(stage["encoder"]["name"], json!("playroom"));
    let sheet = image::open(bench.path("data/contact_sheet.png")).unwrap();
    assert!(sheet.width() > 500 && sheet.height() > 100);

    // Nothing passes: every folder is done, the list is empty.
    let none = ["filter", "pairs", "--out", "none", "--image-threshold", "1.1"];
    assert_eq!(document(&bench, &none, 0)["kept"], json!(0));
    assert_eq!(std::fs::read_to_string(bench.path("none/seeds.json")).unwrap().trim(), "[]");
    // Other settings are other results.
    let other =
        [&["pairs", "given.jsonl", "--out", "pairs", "--resume", "--seed", "1"], &PAIRS[..]];
    let output = ends_with(data(&bench, &other.concat()), 2);
    assert!(stderr(&output).contains("holds results of other settings"), "{}", stderr(&output));
    // Pairs that are not all there are not filtered.
    std::fs::remove_file(bench.path("pairs/0000001/metadata.jsonl")).unwrap();
    let partial = ["filter", "pairs", "--out", "partial"];
    let output = ends_with(data(&bench, &partial), 2);
    assert!(stderr(&output).contains("0000001`: is not complete"), "{}", stderr(&output));
}
