//! `ChatArgs`: how a model behind a chat endpoint is asked, and the endpoint over HTTP.

use any2pix_eval::chat::Endpoint;
use any2pix_hub::{ChatClient, ChatSettings};

/// How a model behind a chat endpoint is asked.
#[derive(clap::Args)]
pub(crate) struct ChatArgs {
    /// Questions at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// How often a busy or failing endpoint is asked again.
    #[arg(long, value_name = "N", default_value_t = 4)]
    retries: usize,
}

impl ChatArgs {
    pub(crate) fn parallel(&self) -> usize {
        self.parallel.into()
    }

    /// The endpoint at `url`; an empty key is none.
    pub(crate) fn endpoint(&self, url: &str, key: Option<&str>) -> impl Endpoint + use<> {
        let key = key.filter(|key| !key.is_empty()).map(str::to_string);
        Http(ChatClient::new(ChatSettings { url: url.to_string(), key, retries: self.retries }))
    }
}

struct Http(ChatClient);

impl Endpoint for Http {
    fn complete(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        self.0.complete(request).map_err(|error| error.to_string())
    }
}
