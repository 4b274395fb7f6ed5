//! `ModelDefinition`: a published model's parts, files and repositories, as `models/<name>/` says.

use std::collections::BTreeMap;

use any2pix_nn::checkpoint::Names;
use candle_core::DType;
use serde::Deserialize;

use crate::error::{HubError, Result};
use crate::table::TensorTable;

/// What the program carries of a component: name, `config.json`, `tensors.txt`, `names.toml`.
type Carried = (&'static str, &'static str, &'static str, &'static str);

macro_rules! carried {
    ($model:literal: $($component:literal),* $(,)?) => {
        &[$((
            $component,
            include_str!(concat!("../../../models/", $model, "/", $component, "/config.json")),
            include_str!(concat!("../../../models/", $model, "/", $component, "/tensors.txt")),
            include_str!(concat!("../../../models/", $model, "/", $component, "/names.toml")),
        )),*]
    };
}

/// The components of InstructAny2Pix, in the order in which an edit needs them.
const INSTRUCTANY2PIX: &[Carried] = carried![
    "instructany2pix":
    "imagebind",
    "llm",
    "prior",
    "prior_text_encoder",
    "text_encoder",
    "text_encoder_2",
    "vae",
    "unet",
    "ip_adapter",
    "refiner_unet",
];

/// The components of InstructPix2Pix in folders, as diffusers lays them out.
const INSTRUCT_PIX2PIX: &[Carried] = carried!["instruct_pix2pix": "text_encoder", "vae", "unet"];
/// The same in the one file of its authors.
const INSTRUCT_PIX2PIX_FILE: &[Carried] = carried!["instruct_pix2pix": "one_file"];

/// Noise schedules that lie in folders of their own: where, and what the program carries of them.
const SCHEDULERS: &[(&str, &str)] = &[
    (
        "stable-diffusion-xl-base-1.0/scheduler/scheduler_config.json",
        include_str!("../../../models/instructany2pix/scheduler/scheduler_config.json"),
    ),
    (
        "stable-diffusion-xl-refiner-1.0/scheduler/scheduler_config.json",
        include_str!("../../../models/instructany2pix/refiner_scheduler/scheduler_config.json"),
    ),
    (
        "scheduler/scheduler_config.json",
        include_str!("../../../models/instruct_pix2pix/scheduler/scheduler_config.json"),
    ),
];

/// The `model_index.json` by which diffusers knows an InstructPix2Pix.
const INSTRUCT_PIX2PIX_INDEX: &str =
    include_str!("../../../models/instruct_pix2pix/model_index.json");

/// Where the files of each model come from.
const INSTRUCTANY2PIX_SOURCES: &str = include_str!("../../../models/instructany2pix/sources.toml");
const INSTRUCT_PIX2PIX_SOURCES: &str =
    include_str!("../../../models/instruct_pix2pix/sources.toml");
const INSTRUCT_PIX2PIX_FILE_SOURCES: &str =
    include_str!("../../../models/instruct_pix2pix/one_file/sources.toml");

/// Names of the models whose definition the program carries.
pub const MODELS: &[&str] = &["instructany2pix", "instruct-pix2pix", "instruct-pix2pix-ckpt"];

/// How the tensors of a component are stored where it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A zip file with a pickle, as `torch.save` writes it.
    Torch,
    /// One header, then bytes.
    Safetensors,
}

/// Type of a stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// The same for candle.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// A repository of the hub, and which of its files are wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `organisation/name`.
    pub id: String,
    /// Branch, tag or commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// Where its files go, below the model's folder.
    #[serde(default)]
    pub folder: String,
    /// Patterns of wanted files.
    pub include: Vec<String>,
    /// Patterns of files that are not wanted after all.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What one may do with it.
    pub licence: String,
    /// Why it may be left out.
    pub optional: Option<String>,
    /// Whether it only replaces files of another repository; not pulled unless it is named.
    #[serde(default)]
    pub alternative: bool,
}

fn main_branch() -> String {
    "main".to_string()
}

/// Which file holds a component.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Below the model's folder.
    pub file: String,
    /// How it is stored.
    pub format: Format,
    /// Whether it is cut into several files with an index beside them.
    #[serde(default)]
    pub shards: bool,
    /// Whether the part of a name before its first dot is a dictionary of its own.
    #[serde(default)]
    pub nested: bool,
    /// Type of the published numbers.
    pub dtype: Precision,
    /// Whether the file's folder is this component's, with a config.json in it.
    #[serde(default)]
    pub own_folder: bool,
    /// Whether a tokenizer lies in a folder beside the file.
    #[serde(default)]
    pub tokenizer: bool,
    /// Files that hold the same.
    #[serde(default)]
    pub alternatives: Vec<String>,
    /// Why it may be missing.
    pub optional: Option<String>,
}

/// One part of a model.
#[derive(Clone, Debug)]
pub struct ComponentDefinition {
    /// Its folder's name.
    pub name: &'static str,
    /// The text of its `config.json`.
    pub config: &'static str,
    /// Every published tensor.
    pub tensors: TensorTable,
    /// How published names become the model's.
    pub names: Names,
    /// Where it lies.
    pub placement: Placement,
}

impl ComponentDefinition {
    /// The noise schedule of the diffusers folder that the component is a part of, if it is the
    /// UNet there: where it lies, and its text.
    pub fn scheduler(&self) -> Option<(&'static str, &'static str)> {
        let (folder, _) = self.placement.file.split_once("unet/")?;
        let place = format!("{folder}scheduler/scheduler_config.json");
        SCHEDULERS.iter().copied().find(|(path, _)| *path == place)
    }

    /// The model's name of a published tensor; `None` when the model does not read it.
    pub fn read_as(&self, published: &str) -> Option<String> {
        let name = self.names.apply(published);
        let ignored = self.names.ignore.iter().any(|i| name.starts_with(&i.prefix));
        (!ignored).then_some(name)
    }
}

/// What `sources.toml` holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    repository: Vec<Repository>,
    component: BTreeMap<String, Placement>,
}

/// A published model.
#[derive(Clone, Debug)]
pub struct ModelDefinition {
    /// Its name.
    pub name: &'static str,
    /// Its parts, in the order in which an edit needs them.
    pub components: Vec<ComponentDefinition>,
    /// Where its files come from.
    pub repositories: Vec<Repository>,
    /// The `model_index.json` without which a folder with such files is none of this model.
    pub index: Option<&'static str>,
}

impl ModelDefinition {
    /// The definition that the program carries under that name.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "instructany2pix" => {
                Self::read("instructany2pix", INSTRUCTANY2PIX_SOURCES, INSTRUCTANY2PIX)
            }
            "instruct-pix2pix" => {
                let model =
                    Self::read("instruct-pix2pix", INSTRUCT_PIX2PIX_SOURCES, INSTRUCT_PIX2PIX)?;
                Ok(Self { index: Some(INSTRUCT_PIX2PIX_INDEX), ..model })
            }
            "instruct-pix2pix-ckpt" => Self::read(
                "instruct-pix2pix-ckpt",
                INSTRUCT_PIX2PIX_FILE_SOURCES,
                INSTRUCT_PIX2PIX_FILE,
            ),
            _ => Err(HubError::UnknownModel { name: name.into(), known: MODELS.join(", ") }),
        }
    }

    fn read(name: &'static str, sources: &str, carried: &[Carried]) -> Result<Self> {
        let at = |file: &str| format!("models/{name}/{file}");
        let mut sources: Sources = toml::from_str(sources)
            .map_err(|e| HubError::malformed(at("sources.toml"), e.message()))?;
        let component = |(part, config, tensors, names): &Carried| {
            let placement = sources.component.remove(*part).ok_or_else(|| {
                HubError::malformed(at("sources.toml"), format!("`{part}` has no place"))
            })?;
            Ok(ComponentDefinition {
                name: part,
                config,
                tensors: TensorTable::parse(&at(&format!("{part}/tensors.txt")), tensors)?,
                names: Names::from_toml(&at(&format!("{part}/names.toml")), names)?,
                placement,
            })
        };
        let components = carried.iter().map(component).collect::<Result<_>>()?;
        Ok(Self { name, components, repositories: sources.repository, index: None })
    }

    /// The component of that name.
    pub fn component(&self, name: &str) -> Result<&ComponentDefinition> {
        self.components.iter().find(|component| component.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.components.iter().map(|c| c.name).collect();
            HubError::UnknownComponent {
                model: self.name.to_string(),
                component: name.to_string(),
                known: known.join(", "),
            }
        })
    }
}
