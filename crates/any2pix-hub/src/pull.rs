//! `pull`: the wanted files of a repository, into the shared cache or a folder.

use std::path::{Path, PathBuf};

use crate::cache::{Cache, files_below, replace_link};
use crate::client::HubClient;
use crate::definition::{ModelDefinition, Repository};
use crate::download::{self, Download};
use crate::error::{HubError, Result};
use crate::glob;
use crate::listing::{RemoteFile, check_repository, is_safe};
use crate::storage::{Progress, require_room};

/// Where unfinished files of a folder are kept below it.
const PARTS: &str = ".any2pix";

/// Which files of which repository.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// `organisation/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Patterns of wanted files; all when empty.
    pub include: Vec<String>,
    /// Patterns of files that are not wanted after all.
    pub exclude: Vec<String>,
}

impl From<&Repository> for PullRequest {
    fn from(repository: &Repository) -> Self {
        Self {
            id: repository.id.clone(),
            revision: repository.revision.clone(),
            include: repository.include.clone(),
            exclude: repository.exclude.clone(),
        }
    }
}

/// Where files go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// The cache that other programs share.
    Cache(Cache),
    /// A folder of their own.
    Folder(PathBuf),
}

/// What a pull left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Where the files are.
    pub folder: PathBuf,
    /// The commit, when the hub was asked.
    pub commit: Option<String>,
    /// Paths of all wanted files below the folder.
    pub files: Vec<String>,
    /// Bytes of the files that were fetched now.
    pub fetched: u64,
}

impl Destination {
    /// The file's place, its unfinished part, and the lock of both.
    fn places(&self, id: &str, file: &RemoteFile) -> (PathBuf, PathBuf, PathBuf) {
        match self {
            Self::Cache(cache) => {
                let blob = cache.blob(id, &file.etag);
                let part = blob.with_file_name(format!("{}.incomplete", file.etag));
                (blob, part, cache.lock(id, &file.etag))
            }
            Self::Folder(folder) => {
                let parts = folder.join(PARTS);
                let part = parts.join(format!("{}.incomplete", file.etag));
                (folder.join(&file.path), part, parts.join(format!("{}.lock", file.etag)))
            }
        }
    }

    fn root(&self) -> &Path {
        match self {
            Self::Cache(cache) => cache.root(),
            Self::Folder(folder) => folder,
        }
    }
}

fn size(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(|data| data.is_file()).map(|data| data.len())
}

/// Fetches what is wanted and not there. Without a connection, what the cache has is given.
pub fn pull(
    client: &HubClient,
    request: &PullRequest,
    destination: &Destination,
    progress: &mut dyn Progress,
) -> Result<Pulled> {
    check_repository(&request.id)?;
    if !is_safe(&request.revision) {
        return Err(HubError::UnsafePath {
            origin: request.id.clone(),
            path: request.revision.clone(),
        });
    }
    if client.is_offline() {
        return offline(request, destination);
    }
    let listing = client.listing(&request.id, &request.revision)?;
    let files = listing.select(&request.include, &request.exclude);
    if files.is_empty() {
        let reason = format!("none of its files fits {}", request.include.join(", "));
        return Err(HubError::malformed(&request.id, reason));
    }
    let mut missing = Vec::new();
    let mut needed = 0;
    for file in &files {
        let (target, part, _) = destination.places(&request.id, file);
        if size(&target) != Some(file.size) {
            needed += file.size - size(&part).unwrap_or(0).min(file.size);
            missing.push(*file);
        }
    }
    require_room(destination.root(), needed)?;
    let mut fetched = 0;
    for file in missing {
        fetch(client, request, &listing.commit, destination, file, progress)?;
        fetched += file.size;
    }
    let folder = match destination {
        Destination::Cache(cache) => {
            for file in &files {
                cache.link(&request.id, &listing.commit, &file.path, &file.etag)?;
            }
            cache.remember(&request.id, &request.revision, &listing.commit)?;
            cache.snapshot_folder(&request.id, &listing.commit)
        }
        Destination::Folder(folder) => folder.clone(),
    };
    let files = files.iter().map(|file| file.path.clone()).collect();
    Ok(Pulled { folder, commit: Some(listing.commit), files, fetched })
}

fn fetch(
    client: &HubClient,
    request: &PullRequest,
    commit: &str,
    destination: &Destination,
    file: &RemoteFile,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (target, part, lock) = destination.places(&request.id, file);
    let _lock = download::lock(&lock)?;
    // Whoever held the lock before may have finished it.
    if size(&target) == Some(file.size) {
        return Ok(());
    }
    let url = client.file_url(&request.id, commit, &file.path);
    Download { client, url, file, part: &part, target: &target }.run(progress)
}

/// What is there without asking anybody.
fn offline(request: &PullRequest, destination: &Destination) -> Result<Pulled> {
    let missing = || HubError::Offline { what: request.id.clone() };
    let Destination::Cache(cache) = destination else { return Err(missing()) };
    let folder = cache.snapshot(&request.id, &request.revision).ok_or_else(missing)?;
    let wanted = |path: &String| {
        let any = |patterns: &[String]| patterns.iter().any(|p| glob::matches(p, path));
        (request.include.is_empty() || any(&request.include)) && !any(&request.exclude)
    };
    let files = files_below(&folder, "").into_iter().filter(wanted).collect();
    Ok(Pulled { folder, commit: None, files, fetched: 0 })
}

/// Where a model's folder is, and what lies in it.
#[derive(Clone, Debug)]
pub enum ModelPlace {
    /// The files themselves.
    Folder(PathBuf),
    /// Links to files in the cache.
    Linked {
        /// Where the files are.
        cache: Cache,
        /// Where the links are.
        folder: PathBuf,
    },
}

/// Fetches a model's repositories, each to its place below the model's folder. Alternatives are
/// left out unless `named` names them; with `named`, only those are fetched.
pub fn pull_model(
    client: &HubClient,
    model: &ModelDefinition,
    named: &[String],
    place: &ModelPlace,
    progress: &mut dyn Progress,
) -> Result<Vec<Pulled>> {
    if let Some(unknown) = named.iter().find(|id| !model.repositories.iter().any(|r| r.id == **id))
    {
        return Err(HubError::UnknownComponent {
            model: model.name.to_string(),
            component: unknown.clone(),
            known: model.repositories.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join(", "),
        });
    }
    let mut pulled = Vec::new();
    for repository in &model.repositories {
        let wanted = match named {
            [] => !repository.alternative,
            _ => named.contains(&repository.id),
        };
        if !wanted {
            continue;
        }
        pulled.push(match place {
            ModelPlace::Folder(folder) => {
                let destination = Destination::Folder(folder.join(&repository.folder));
                pull(client, &repository.into(), &destination, progress)?
            }
            ModelPlace::Linked { cache, folder } => {
                let destination = Destination::Cache(cache.clone());
                let there = pull(client, &repository.into(), &destination, progress)?;
                link_all(&there, &folder.join(&repository.folder))?;
                there
            }
        });
    }
    Ok(pulled)
}

/// Links every pulled file into `folder`.
fn link_all(pulled: &Pulled, folder: &Path) -> Result<()> {
    for file in &pulled.files {
        let link = folder.join(file);
        let above = link.parent().unwrap_or(folder);
        std::fs::create_dir_all(above).map_err(HubError::io(above))?;
        let target = std::path::absolute(pulled.folder.join(file)).map_err(HubError::io(&link))?;
        replace_link(&target, &target, &link)?;
    }
    Ok(())
}
