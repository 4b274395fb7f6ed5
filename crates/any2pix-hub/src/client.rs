//! `HubClient`: questions to a hub over HTTP, with errors that say what to do.
//!
//! The hf-hub crate would serve too, but its current release brings an asynchronous runtime and
//! some 200 crates, and leaves resuming, hashes and offline use to the caller all the same.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::error::{HubError, Result};
use crate::listing::{Listing, RemoteFile};

/// Longest answer that lists files.
const MOST_JSON: u64 = 64 << 20;
/// Longest wait that a busy server may ask for without the user being told instead.
const PATIENCE: u64 = 20;
/// Slowest connection that is not given up, in bytes a second.
const SLOWEST: u64 = 20_000;

/// What the environment says of the hub; only the command line reads it.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Where the hub answers.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<String>,
    /// Whether no connection may be opened.
    pub offline: bool,
    /// How often a failed request is made again.
    pub retries: usize,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".into(), token: None, offline: false, retries: 4 }
    }
}

/// Asks a hub.
pub struct HubClient {
    settings: HubSettings,
    agent: Agent,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    oid: String,
    #[serde(default)]
    size: u64,
    path: String,
    lfs: Option<TreeLfs>,
}

#[derive(Deserialize)]
struct TreeLfs {
    oid: String,
    size: u64,
}

impl HubClient {
    /// A client that has asked nothing yet.
    pub fn new(settings: HubSettings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("any2pix/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .build();
        Self { settings, agent: config.into() }
    }

    /// Whether no connection may be opened.
    pub fn is_offline(&self) -> bool {
        self.settings.offline
    }

    /// The commit that `revision` of a repository stands for, and its files.
    pub fn listing(&self, id: &str, revision: &str) -> Result<Listing> {
        let endpoint = self.settings.endpoint.trim_end_matches('/');
        let encoded = encode(revision, false);
        let url = format!("{endpoint}/api/models/{id}/revision/{encoded}");
        let commit = self.json::<Revision>(&url)?.0.sha;
        let mut next = Some(format!("{endpoint}/api/models/{id}/tree/{commit}?recursive=true"));
        let mut files = Vec::new();
        while let Some(url) = next {
            let (entries, link) = self.json::<Vec<TreeEntry>>(&url)?;
            files.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| {
                let TreeEntry { oid, size, path, lfs, .. } = entry;
                match lfs {
                    Some(lfs) => {
                        RemoteFile { path, size: lfs.size, etag: lfs.oid, is_sha256: true }
                    }
                    None => RemoteFile { path, size, etag: oid, is_sha256: false },
                }
            }));
            // Another host would be sent the token.
            next = link.filter(|link| link.starts_with(endpoint));
        }
        Listing::checked(id, commit, files)
    }

    /// Where a file of a commit is.
    pub(crate) fn file_url(&self, id: &str, commit: &str, path: &str) -> String {
        let endpoint = self.settings.endpoint.trim_end_matches('/');
        format!("{endpoint}/{id}/resolve/{commit}/{}", encode(path, true))
    }

    /// An answer as JSON, and the address of the next page.
    fn json<T: for<'a> Deserialize<'a>>(&self, url: &str) -> Result<(T, Option<String>)> {
        let mut attempt = 0;
        loop {
            let answer = self.get(url, 0, MOST_JSON).and_then(|response| {
                let next = response.headers().get("link").and_then(|l| l.to_str().ok());
                let next = next.and_then(next_page);
                let mut text = Vec::new();
                let (_, body) = response.into_parts();
                let read = body.into_with_config().limit(MOST_JSON).reader().read_to_end(&mut text);
                read.map_err(|e| HubError::connection(url, e))?;
                Ok((text, next))
            });
            match answer {
                Ok((text, next)) => {
                    let value = serde_json::from_slice(&text)
                        .map_err(|e| HubError::malformed(url, e.to_string()))?;
                    return Ok((value, next));
                }
                Err(error) => self.wait_or_give_up(error, &mut attempt)?,
            }
        }
    }

    /// One GET from byte `start` on, for at most `most` bytes; statuses of failure are errors,
    /// except 416.
    pub(crate) fn get(&self, url: &str, start: u64, most: u64) -> Result<Response<Body>> {
        if self.settings.offline {
            return Err(HubError::Offline { what: url.to_string() });
        }
        let mut request = self
            .agent
            .get(url)
            .config()
            .timeout_recv_body(Some(Duration::from_secs(60 + most / SLOWEST)))
            .build();
        if let Some(token) = &self.settings.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        let response = request.call().map_err(|e| HubError::connection(url, e))?;
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 | 206 | 416 => Ok(response),
            status @ (401 | 403) => Err(HubError::Refused {
                url: url.to_string(),
                status,
                with_token: self.settings.token.is_some(),
                reason: header("x-error-message").unwrap_or_default().to_string(),
            }),
            404 => Err(HubError::NotThere {
                url: url.to_string(),
                reason: header("x-error-message").unwrap_or_default().to_string(),
            }),
            status => Err(HubError::Status {
                url: url.to_string(),
                status,
                retry_after: header("retry-after").and_then(|text| text.parse().ok()),
            }),
        }
    }

    /// Waits before another attempt, or gives the error back when there is to be none.
    pub(crate) fn wait_or_give_up(&self, error: HubError, attempt: &mut usize) -> Result<()> {
        let Some(asked) = error.worth_another_try() else { return Err(error) };
        let wait = asked.unwrap_or(1 << (*attempt).min(4));
        if *attempt >= self.settings.retries || wait > PATIENCE {
            return Err(error);
        }
        *attempt += 1;
        std::thread::sleep(Duration::from_secs(wait));
        Ok(())
    }
}

/// The address of the next page in a `Link` header.
fn next_page(header: &str) -> Option<String> {
    header.split(',').find(|link| link.contains("rel=\"next\"")).and_then(|link| {
        let (_, rest) = link.split_once('<')?;
        rest.split_once('>').map(|(url, _)| url.to_string())
    })
}

/// Text as part of an address; slashes stay when they divide folders.
fn encode(text: &str, slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' if slashes => encoded.push('/'),
            b'-' | b'_' | b'.' | b'~' => encoded.push(byte as char),
            _ if byte.is_ascii_alphanumeric() => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped_and_pages_found() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/c#?.bin", true), "a%20b/c%23%3F.bin");
        let link = "<https://h/prev>; rel=\"prev\", <https://h/next?cursor=x>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("https://h/next?cursor=x"));
        assert_eq!(next_page("<https://h>; rel=\"last\""), None);
    }
}
