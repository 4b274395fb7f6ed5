//! Pulls from a hub on the loopback: whole, interrupted, resumed, lied to, refused, offline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::path::Path;
use std::sync::{Arc, Mutex};

use any2pix_hub::{
    Cache, Destination, HubClient, HubError, HubSettings, Progress, PullRequest, Pulled, Silent,
    pull,
};
use any2pix_nn::Hint;

use server::{COMMIT, ID, Server, sha256};

/// Two files, a small and a large one in a folder.
fn files() -> [(&'static str, Vec<u8>); 2] {
    let large = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    [("config.json", b"{\"small\": true}".to_vec()), ("unet/model.safetensors", large)]
}

fn client(server: &Server, retries: usize, offline: bool) -> HubClient {
    let endpoint = server.endpoint.clone();
    HubClient::new(HubSettings { endpoint, token: Some("hf_secret".into()), offline, retries })
}

fn request() -> PullRequest {
    PullRequest { id: ID.into(), revision: "main".into(), include: vec![], exclude: vec![] }
}

fn into_cache(root: &Path) -> Destination {
    Destination::Cache(Cache::new(root))
}

fn try_pull(server: &Server, root: &Path) -> Result<Pulled, HubError> {
    pull(&client(server, 0, false), &request(), &into_cache(root), &mut Silent)
}

/// The unfinished part of the large file in a cache.
fn part(root: &Path) -> std::path::PathBuf {
    let hash = sha256(&files()[1].1);
    root.join(format!("models--org--name/blobs/{hash}.incomplete"))
}

fn assert_whole(folder: &Path) {
    for (path, bytes) in files() {
        assert!(std::fs::read(folder.join(path)).unwrap() == bytes, "{path} differs");
    }
}

#[test]
fn a_cache_is_as_the_hubs_own_tools_lay_it_out() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let pulled = try_pull(&server, root.path()).unwrap();
    let repository = root.path().join("models--org--name");
    assert_eq!(pulled.folder, repository.join("snapshots").join(COMMIT));
    assert_eq!(pulled.files, ["config.json", "unet/model.safetensors"]);
    assert_whole(&pulled.folder);
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let blob = repository.join("blobs").join(sha256(&files()[1].1));
    let link = pulled.folder.join("unet/model.safetensors");
    assert_eq!(link.canonicalize().unwrap(), blob.canonicalize().unwrap());
    if cfg!(unix) {
        let target = std::fs::read_link(link).unwrap();
        assert!(target.starts_with("../../../blobs"), "{}", target.display());
    }
    let cache = Cache::new(root.path());
    let snapshots = cache.snapshots();
    assert_eq!(snapshots.len(), 1);
    assert_eq!((snapshots[0].id.as_str(), snapshots[0].refs.join(",")), (ID, "main".into()));
    assert_eq!(snapshots[0].bytes, 3_000_015);
    // What is there is not fetched again.
    let before = server.ranges().len();
    assert_eq!(try_pull(&server, root.path()).unwrap().fetched, 0);
    assert_eq!(server.ranges().len(), before);
}

#[test]
fn an_interrupted_file_goes_on_where_it_stopped() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let only = PullRequest { include: vec!["unet/*".into()], ..request() };
    server.change(|b| b.cuts = vec![1_000_000]);
    let get = || pull(&client(&server, 0, false), &only, &into_cache(root.path()), &mut Silent);
    let error = get().unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    let there = std::fs::metadata(part(root.path())).unwrap().len();
    assert!((1..=1_000_000).contains(&there), "{there}");
    let pulled = get().unwrap();
    assert_eq!(server.ranges(), [None, Some(format!("bytes={there}-"))]);
    let bytes = std::fs::read(pulled.folder.join("unet/model.safetensors")).unwrap();
    assert!(bytes == files()[1].1);
    assert!(!part(root.path()).exists());
}

#[test]
fn a_lost_connection_is_made_again_by_itself() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let only = PullRequest { include: vec!["unet/*".into()], ..request() };
    // More often than one may try without getting further.
    server.change(|b| b.cuts = vec![500_000, 500_000]);
    let destination = into_cache(root.path());
    pull(&client(&server, 1, false), &only, &destination, &mut Silent).unwrap();
    assert_eq!(server.ranges().len(), 3);
    assert!(server.ranges()[1..].iter().all(Option::is_some));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    server.change(|b| b.ignore_range = true);
    let part = part(root.path());
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, vec![7; 1000]).unwrap();
    assert_whole(&try_pull(&server, root.path()).unwrap().folder);
    assert!(server.ranges().contains(&Some("bytes=1000-".into())));
}

#[test]
fn other_content_is_refused_and_removed() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    server.change(|b| b.corrupt = true);
    for wanted in ["*.json", "unet/*"] {
        let only = PullRequest { include: vec![wanted.into()], ..request() };
        let destination = into_cache(root.path());
        let error = pull(&client(&server, 0, false), &only, &destination, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    }
    let blobs = part(root.path()).with_file_name("");
    assert!(std::fs::read_dir(&blobs).unwrap().next().is_none(), "something was kept");
    assert!(!root.path().join("models--org--name/snapshots").exists());
    // Half of a file that was another one is found out too.
    server.change(|b| b.corrupt = false);
    std::fs::write(part(root.path()), vec![7; 1000]).unwrap();
    let error = try_pull(&server, root.path()).unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    assert_whole(&try_pull(&server, root.path()).unwrap().folder);
}

#[test]
fn statuses_are_errors_that_say_what_to_do() {
    let server = Server::start(&files());
    let root = tempfile::tempdir().unwrap();
    let told = |status, headers| {
        server.change(|b| b.status = Some((status, headers)));
        let error = try_pull(&server, root.path()).unwrap_err();
        (error.to_string(), error.hints().join(" "))
    };
    let (error, hint) = told(404, "X-Error-Message: Repository not found\r\n");
    assert!(error.contains("not there: Repository not found"), "{error}");
    assert!(hint.contains("--revision"), "{hint}");
    let (error, hint) = told(401, "");
    assert!(error.contains("401"), "{error}");
    assert!(hint.contains("HF_TOKEN"), "{hint}");
    let (error, hint) = told(503, "Retry-After: 3600\r\n");
    assert!(error.contains("503"), "{error}");
    assert!(hint.contains("3600 seconds"), "{hint}");
    assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
}

#[test]
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    server.change(|b| {
        b.status = Some((503, "Retry-After: 0\r\n"));
        b.busy_answers = 2;
    });
    let destination = into_cache(root.path());
    pull(&client(&server, 2, false), &request(), &destination, &mut Silent).unwrap();
}

#[test]
fn the_token_goes_along_and_redirections_are_followed() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    server.change(|b| b.redirect = true);
    assert_whole(&try_pull(&server, root.path()).unwrap().folder);
    let tokens = server.behaviour.lock().unwrap().tokens.clone();
    assert!(!tokens.is_empty() && tokens.iter().all(|token| token == "Bearer hf_secret"));
}

#[test]
fn a_path_that_leaves_its_folder_is_refused_before_anything_is_fetched() {
    for path in ["../outside.bin", "/etc/outside", "a/../../b", "C:\\x", "a\\..\\b"] {
        let server = Server::start(&[("good.json", b"{}".to_vec()), (path, vec![1; 100])]);
        let root = tempfile::tempdir().unwrap();
        let error = try_pull(&server, root.path()).unwrap_err();
        assert!(matches!(error, HubError::UnsafePath { .. }), "{error}");
        assert!(server.ranges().is_empty());
    }
    let server = Server::start(&files());
    let root = tempfile::tempdir().unwrap();
    for (id, revision) in [("../name", "main"), ("org/name", "../../x"), ("name", "main")] {
        let request = PullRequest { id: id.into(), revision: revision.into(), ..request() };
        let destination = into_cache(root.path());
        pull(&client(&server, 0, false), &request, &destination, &mut Silent).unwrap_err();
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn offline_opens_no_connection() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let destination = into_cache(root.path());
    let offline = client(&server, 3, true);
    let error = pull(&offline, &request(), &destination, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert_eq!(server.connections(), 0);
    try_pull(&server, root.path()).unwrap();
    let before = server.connections();
    let pulled = pull(&offline, &request(), &destination, &mut Silent).unwrap();
    assert_whole(&pulled.folder);
    assert_eq!(pulled.files, ["config.json", "unet/model.safetensors"]);
    assert_eq!(server.connections(), before);
}

#[test]
fn of_two_pulls_at_once_one_gives_way() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    server.change(|b| b.hold = Some(gate.clone()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| try_pull(&server, root.path()));
        while server.ranges().is_empty() {
            std::thread::yield_now();
        }
        let error = try_pull(&server, root.path()).unwrap_err();
        assert!(matches!(error, HubError::Locked { .. }), "{error}");
        drop(closed);
        assert_whole(&first.join().unwrap().unwrap().folder);
    });
    assert_whole(&try_pull(&server, root.path()).unwrap().folder);
}

/// Stops after some bytes.
struct Impatient(u64);

impl Progress for Impatient {
    fn file(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, bytes: u64) {
        self.0 += bytes;
    }
    fn warning(&mut self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0 > 500_000
    }
}

#[test]
fn a_stop_leaves_a_part_that_can_be_resumed() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let folder = root.path().join("model");
    let destination = Destination::Folder(folder.clone());
    let get = |progress: &mut dyn Progress| {
        pull(&client(&server, 0, false), &request(), &destination, progress)
    };
    let error = get(&mut Impatient(0)).unwrap_err();
    assert!(matches!(error, HubError::Stopped), "{error}");
    assert!(!folder.join("unet/model.safetensors").exists());
    assert_whole(&get(&mut Silent).unwrap().folder);
    let ranges = server.ranges();
    let last = ranges.last().unwrap().as_ref().unwrap();
    let start: u64 = last["bytes=".len()..last.len() - 1].parse().unwrap();
    assert!(start > 500_000 && start < 3_000_000, "{start}");
}

#[test]
fn only_what_fits_is_fetched() {
    let (server, root) = (Server::start(&files()), tempfile::tempdir().unwrap());
    let destination = Destination::Folder(root.path().to_path_buf());
    let some = PullRequest { include: vec!["*.json".into()], ..request() };
    pull(&client(&server, 0, false), &some, &destination, &mut Silent).unwrap();
    assert!(root.path().join("config.json").exists());
    assert!(!root.path().join("unet").exists());
    let none = PullRequest { include: vec!["*.onnx".into()], ..request() };
    let error = pull(&client(&server, 0, false), &none, &destination, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("*.onnx"), "{error}");
}
