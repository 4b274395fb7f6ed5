//! `ChatClient`: takes requests of OpenAI's chat protocol to an endpoint, with bounds on time and
//! size. What is asked and answered is not looked into here.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

use crate::client::{HubClient, HubSettings};
use crate::error::{HubError, Result};

/// Longest answer.
const MOST_ANSWER: u64 = 4 << 20;
/// A judge may think so long before it begins to answer.
const THINKING: Duration = Duration::from_secs(180);
/// From the first byte of an answer to its last.
const ANSWERING: Duration = Duration::from_secs(60);

/// Where a model answers, and who asks.
#[derive(Clone, Debug)]
pub struct ChatSettings {
    /// Up to and with `/v1`; `/chat/completions` is added when it is not there.
    pub url: String,
    /// Sent as a bearer token, and nowhere else.
    pub key: Option<String>,
    /// How often a failed request is made again.
    pub retries: usize,
}

/// Asks a model.
pub struct ChatClient {
    url: String,
    key: Option<String>,
    patience: HubClient,
    agent: Agent,
}

impl ChatClient {
    /// A client that has asked nothing yet.
    pub fn new(settings: ChatSettings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("any2pix/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(THINKING))
            .timeout_recv_body(Some(ANSWERING))
            .build();
        let url = settings.url.trim_end_matches('/');
        let url = match url.ends_with("/chat/completions") {
            true => url.to_string(),
            false => format!("{url}/chat/completions"),
        };
        let patience = HubSettings { retries: settings.retries, ..HubSettings::default() };
        Self { url, key: settings.key, patience: HubClient::new(patience), agent: config.into() }
    }

    /// The body of the answer to `request`, which is JSON; busy servers are asked again.
    ///
    /// # Errors
    /// Connections that fail, and every status but 200.
    pub fn complete(&self, request: &[u8]) -> Result<Vec<u8>> {
        let mut attempt = 0;
        loop {
            match self.once(request) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.patience.wait_or_give_up(error, &mut attempt)?,
            }
        }
    }

    fn once(&self, body: &[u8]) -> Result<Vec<u8>> {
        let url = &self.url;
        let mut request = self.agent.post(url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.send(body).map_err(|e| HubError::connection(url, e))?;
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|text| text.parse().ok());
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => {
                let (url, with_token) = (url.clone(), self.key.is_some());
                return Err(HubError::Refused { url, status, with_token, reason: String::new() });
            }
            status => return Err(HubError::Status { url: url.clone(), status, retry_after }),
        }
        let mut answer = Vec::new();
        let (_, body) = response.into_parts();
        let read = body.into_with_config().limit(MOST_ANSWER).reader().read_to_end(&mut answer);
        read.map_err(|e| HubError::connection(url, e))?;
        Ok(answer)
    }
}
