//! `any2pix models` from outside: exit codes, messages, and no connection when there may be none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn models(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command
        .arg("models")
        .args(args)
        .current_dir(folder)
        .env("HF_HOME", folder.join("hf"))
        .env("ANY2PIX_MODELS", folder.join("models"))
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn random_weights_are_written_once_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let init = ["init", "--random", "instructany2pix", "model", "--only", "vae"];
    let written = models(folder.path(), &init, &[]);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let again = models(folder.path(), &init, &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    let inspected = models(folder.path(), &["inspect", "model", "--json"], &[]);
    assert_eq!(inspected.status.code(), Some(1), "{}", stderr(&inspected));
    let document = json(&inspected);
    assert_eq!(document["complete"], false);
    let parts = document["parts"].as_array().unwrap();
    let vae = parts.iter().find(|part| part["name"] == "vae").unwrap();
    assert_eq!((&vae["tensors"], &vae["format"]), (&248.into(), &"safetensors".into()));
    let llm = parts.iter().find(|part| part["name"] == "llm").unwrap();
    assert!(llm["file"].is_null() && llm["get"].as_str().unwrap().contains("models pull"));
}

#[test]
fn offline_asks_nobody_by_flag_and_by_environment() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hub = ("HF_ENDPOINT", endpoint.as_str());
    let by_flag = models(folder.path(), &["pull", "org/name", "--offline"], &[hub]);
    let by_variable = models(folder.path(), &["pull", "org/name"], &[hub, ("HF_HUB_OFFLINE", "1")]);
    for output in [by_flag, by_variable] {
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains("no connection may be opened"), "{}", stderr(&output));
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["pull", "nonsense"][..],
        &["pull", "a/../b"],
        &["inspect", "nonsense"],
        &["init", "--random", "nonsense", "dir"],
        &["init", "--random", "instructany2pix", "dir", "--only", "nonsense"],
        &["pull", "instructany2pix", "--revision", "v1"],
    ] {
        let output = models(folder.path(), args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{args:?}: {}", stderr(&output));
    }
    assert!(!folder.path().join("dir").exists());
    let listed = models(folder.path(), &["list", "--json"], &[]);
    assert_eq!(json(&listed)["models"][0]["name"], "playroom");
}
