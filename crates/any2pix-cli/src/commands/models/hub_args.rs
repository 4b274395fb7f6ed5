//! Where models are looked for and fetched from: flags and the environment of Hugging Face's tools.

use std::path::PathBuf;

use any2pix_hub::{Cache, HubClient, HubSettings};

use crate::diagnostics::Failure;

/// Flags of everything that looks for models.
#[derive(clap::Args)]
pub(super) struct HubArgs {
    /// Folder of Hugging Face's tools.
    #[arg(long, env = "HF_HOME", hide_env_values = true, global = true)]
    hf_home: Option<PathBuf>,
    /// Folder of their downloads; `hub` below --hf-home when it is not given.
    #[arg(long, env = "HF_HUB_CACHE", hide_env_values = true, global = true)]
    hub_cache: Option<PathBuf>,
    /// Folder of the models that were pulled by name.
    #[arg(long, env = "ANY2PIX_MODELS", hide_env_values = true, global = true)]
    models: Option<PathBuf>,
    /// Open no connection.
    #[arg(long, global = true)]
    offline: bool,
    /// The same, by what Hugging Face's tools read: 1, on, yes, true.
    #[arg(long, env = "HF_HUB_OFFLINE", hide = true, global = true)]
    hf_hub_offline: Option<String>,
    /// The hub's address.
    #[arg(
        long,
        env = "HF_ENDPOINT",
        default_value = "https://huggingface.co",
        hide_env_values = true,
        global = true
    )]
    endpoint: String,
    /// Who asks; only for repositories that are not open to everybody.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, hide = true, global = true)]
    hf_token: Option<String>,
    #[arg(long, env = "XDG_CACHE_HOME", hide = true, global = true)]
    xdg_cache_home: Option<PathBuf>,
    #[arg(long, env = "XDG_DATA_HOME", hide = true, global = true)]
    xdg_data_home: Option<PathBuf>,
    #[arg(long, env = "HOME", hide = true, global = true)]
    home: Option<PathBuf>,
}

fn not_empty(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.clone().filter(|path| !path.as_os_str().is_empty())
}

impl HubArgs {
    fn below_home(&self, set: &Option<PathBuf>, below: &str) -> Result<PathBuf, Failure> {
        not_empty(set).or_else(|| not_empty(&self.home).map(|home| home.join(below))).ok_or_else(
            || Failure::refused("there is no home folder").hint("set HF_HOME and ANY2PIX_MODELS"),
        )
    }

    fn hf_home(&self) -> Result<PathBuf, Failure> {
        match not_empty(&self.hf_home) {
            Some(home) => Ok(home),
            None => Ok(self.below_home(&self.xdg_cache_home, ".cache")?.join("huggingface")),
        }
    }

    /// The cache that Hugging Face's tools share.
    pub(super) fn cache(&self) -> Result<Cache, Failure> {
        match not_empty(&self.hub_cache) {
            Some(folder) => Ok(Cache::new(folder)),
            None => Ok(Cache::new(self.hf_home()?.join("hub"))),
        }
    }

    /// The folder of models that were pulled by name.
    pub(super) fn models(&self) -> Result<PathBuf, Failure> {
        match not_empty(&self.models) {
            Some(folder) => Ok(folder),
            None => {
                let data = self.below_home(&self.xdg_data_home, ".local/share")?;
                Ok(data.join("any2pix/models"))
            }
        }
    }

    /// Who asks the hub.
    pub(super) fn client(&self) -> HubClient {
        let word = |text: &String| ["1", "on", "yes", "true"].contains(&&*text.to_lowercase());
        let offline = self.offline || self.hf_hub_offline.as_ref().is_some_and(word);
        let token = self.hf_token.clone().or_else(|| {
            let file = self.hf_home().ok()?.join("token");
            std::fs::read_to_string(file).ok()
        });
        let token = token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        let endpoint = self.endpoint.clone();
        HubClient::new(HubSettings { endpoint, token, offline, ..HubSettings::default() })
    }
}
