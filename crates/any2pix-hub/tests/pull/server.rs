//! A hub on the loopback that can be told to misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const ID: &str = "org/name";

/// What the server does, and what it saw.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Content of every file; those over 64 bytes are listed as large ones, by their SHA-256.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Ends answers after that many bytes of a file, the last of these first, each once.
    pub(crate) cuts: Vec<usize>,
    /// Gives whole files whatever is asked for.
    pub(crate) ignore_range: bool,
    /// Gives other bytes than were listed.
    pub(crate) corrupt: bool,
    /// Answers everything with this status and these headers.
    pub(crate) status: Option<(u16, &'static str)>,
    /// As `status`, but only for so many answers.
    pub(crate) busy_answers: usize,
    /// Sends large files from another path.
    pub(crate) redirect: bool,
    /// Waits in the middle of a file until this is free.
    pub(crate) hold: Option<Arc<Mutex<()>>>,
    /// Connections so far.
    pub(crate) connections: usize,
    /// First lines and `Range` headers so far.
    pub(crate) requests: Vec<(String, Option<String>)>,
    /// `Authorization` headers so far.
    pub(crate) tokens: Vec<String>,
}

pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    /// Listens until the test's process ends.
    pub(crate) fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(path, bytes)| (path.to_string(), bytes.clone())).collect();
        let behaviour = Arc::new(Mutex::new(Behaviour { files, ..Behaviour::default() }));
        let shared = behaviour.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let behaviour = shared.clone();
                behaviour.lock().unwrap().connections += 1;
                std::thread::spawn(move || answer(stream, &behaviour));
            }
        });
        Self { endpoint, behaviour }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// `Range` headers of the requests for file contents, in order.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let behaviour = self.behaviour.lock().unwrap();
        let file = |(line, _): &&(String, _)| line.contains("/resolve/") || line.contains("/cdn/");
        behaviour.requests.iter().filter(file).map(|(_, range)| range.clone()).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.behaviour.lock().unwrap().connections
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As `git hash-object` names content.
fn git_hash(bytes: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn hashes_are_those_of_git() {
    assert_eq!(git_hash(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let entry = |(path, bytes): (&String, &Vec<u8>)| {
        let size = bytes.len();
        let git = git_hash(bytes);
        match size > 64 {
            true => serde_json::json!({
                "type": "file", "oid": git, "size": size, "path": path,
                "lfs": { "oid": sha256(bytes), "size": size, "pointerSize": 130 },
            }),
            false => {
                serde_json::json!({ "type": "file", "oid": git, "size": size, "path": path })
            }
        }
    };
    let mut entries: Vec<_> = files.iter().map(entry).collect();
    entries.push(serde_json::json!({ "type": "directory", "oid": COMMIT, "path": "folder" }));
    serde_json::Value::Array(entries).to_string()
}

fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8], cut: Option<usize>) {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    let body = &body[..cut.unwrap_or(body.len()).min(body.len())];
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn answer(mut stream: TcpStream, behaviour: &Mutex<Behaviour>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let header = |name: &str| {
        let (_, value) = headers
            .iter()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value.to_string())
    };
    let range = header("range");
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut state = behaviour.lock().unwrap();
    state.requests.push((first.clone(), range.clone()));
    state.tokens.extend(header("authorization"));
    if let Some((status, headers)) = state.status {
        if state.busy_answers == 1 {
            state.status = None;
        }
        state.busy_answers = state.busy_answers.saturating_sub(1);
        return respond(&mut stream, status, headers, b"", None);
    }
    if path.starts_with(&format!("/api/models/{ID}/revision/")) {
        let body = serde_json::json!({ "id": ID, "sha": COMMIT }).to_string();
        return respond(&mut stream, 200, "", body.as_bytes(), None);
    }
    if path.starts_with(&format!("/api/models/{ID}/tree/{COMMIT}")) {
        return respond(&mut stream, 200, "", listing(&state.files).as_bytes(), None);
    }
    let resolve = format!("/{ID}/resolve/{COMMIT}/");
    let name = path.strip_prefix(&resolve).or(path.strip_prefix("/cdn/"));
    let Some(bytes) = name.and_then(|name| state.files.get(name)).cloned() else {
        return respond(&mut stream, 404, "X-Error-Message: Entry not found\r\n", b"", None);
    };
    if state.redirect && path.starts_with(&resolve) {
        let to = format!("Location: /cdn/{}\r\n", name.unwrap_or_default());
        return respond(&mut stream, 302, &to, b"", None);
    }
    let (cut, hold) = (state.cuts.pop(), state.hold.take());
    let (corrupt, ignore_range) = (state.corrupt, state.ignore_range);
    drop(state);
    let mut bytes = bytes;
    if corrupt && let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    let start: usize = range
        .filter(|_| !ignore_range)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let (status, headers) = match start {
        0 => (200, String::new()),
        _ => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            (206, format!("Content-Range: {range}\r\n"))
        }
    };
    if let Some(hold) = hold {
        let waiting = hold.lock().unwrap();
        drop(waiting);
    }
    respond(&mut stream, status, &headers, &bytes[start..], cut);
}
