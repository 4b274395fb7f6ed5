//! LoRA: low-rank changes of weights, in the names of diffusers, peft and kohya, merged into each
//! weight while a model loads.

use std::collections::{BTreeMap, HashMap};

use any2pix_nn::Checkpoint;
use any2pix_nn::ops::{self, Precision, PrecisionScope};
use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::DiffusionError;

/// Which model of a pipeline a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoraPart {
    /// The UNet.
    Unet,
    /// The first text encoder, or the only one.
    TextEncoder,
    /// The second.
    TextEncoder2,
}

/// What a tensor of a file is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// Ends of tensor names; what stands before is the module.
const ROLES: [(&str, Role); 13] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// Beginnings of modules, dots as underscores; the longer of two that fit comes first.
const PARTS: [(&str, LoraPart); 7] = [
    ("lora_unet_", LoraPart::Unet),
    ("unet_", LoraPart::Unet),
    ("lora_te1_", LoraPart::TextEncoder),
    ("lora_te2_", LoraPart::TextEncoder2),
    ("lora_te_", LoraPart::TextEncoder),
    ("text_encoder_2_", LoraPart::TextEncoder2),
    ("text_encoder_", LoraPart::TextEncoder),
];

/// Resnets and attentions of a block of SDXL's UNet, with what changes the size after them: how
/// the original code counts its blocks.
const LAYERS: usize = 3;

#[derive(Clone, Debug, Default)]
struct Module {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

/// A file of changes.
#[derive(Clone, Debug)]
pub struct Lora {
    origin: String,
    scale: f64,
    modules: BTreeMap<(LoraPart, String), Module>,
}

impl Lora {
    /// Every tensor of `checkpoint`, to be added `scale` times. `alpha` stands for modules whose
    /// own the file does not say (peft writes it beside the file); without one it is the rank.
    pub fn read(
        origin: &str,
        checkpoint: &Checkpoint,
        scale: f64,
        alpha: Option<f64>,
    ) -> std::result::Result<Self, DiffusionError> {
        let mut modules: BTreeMap<(LoraPart, String), Module> = BTreeMap::new();
        let refuse = |name: &str, reason: &str| DiffusionError::Lora {
            origin: origin.to_string(),
            name: name.to_string(),
            reason: reason.to_string(),
        };
        for name in checkpoint.names() {
            let found = ROLES.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role)));
            let Some((module, role)) = found else {
                return Err(refuse(&name, "is not of a plain LoRA"));
            };
            let Some(tensor) = checkpoint.tensor(&name) else { continue };
            let entry = modules.entry(place(module)).or_default();
            match role {
                Role::Down => entry.down = Some(tensor.to_dtype(DType::F32)?),
                Role::Up => entry.up = Some(tensor.to_dtype(DType::F32)?),
                Role::Alpha => {
                    let value = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                    entry.alpha = value.first().copied();
                }
            }
        }
        for ((_, name), module) in &mut modules {
            if module.down.is_none() || module.up.is_none() {
                return Err(refuse(name, "lacks one of its two halves"));
            }
            module.alpha = module.alpha.or(alpha);
        }
        if modules.is_empty() {
            return Err(refuse("", "there is no tensor in it"));
        }
        Ok(Self { origin: origin.to_string(), scale, modules })
    }

    /// Whether it changes anything of `part`.
    pub fn changes(&self, part: LoraPart) -> bool {
        self.modules.keys().any(|(of, _)| *of == part)
    }
}

/// The part and the module, with dots as underscores and each dialect's own words taken out.
fn place(module: &str) -> (LoraPart, String) {
    let flat = module.replace('.', "_").replace("_processor", "");
    let flat = flat.strip_prefix("base_model_model_").unwrap_or(&flat);
    let found = PARTS.iter().find_map(|(start, part)| Some((*part, flat.strip_prefix(start)?)));
    let (part, name) = found.unwrap_or((LoraPart::Unet, flat));
    let mut name = match part {
        LoraPart::Unet => of_original(name).unwrap_or_else(|| name.to_string()),
        _ => name.to_string(),
    };
    if name.ends_with("_to_out") {
        name.push_str("_0");
    }
    (part, name)
}

/// The diffusers name of a module of the original SDXL code, as kohya's files have it; `None`
/// when it is none.
fn of_original(name: &str) -> Option<String> {
    const PLAIN: [(&str, &str); 6] = [
        ("input_blocks_0_0", "conv_in"),
        ("time_embed_0", "time_embedding_linear_1"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
        ("label_emb_0_2", "add_embedding_linear_2"),
        ("out_2", "conv_out"),
    ];
    if let Some((_, plain)) = PLAIN.iter().find(|(original, _)| *original == name) {
        return Some((*plain).to_string());
    }
    let numbered = |rest: &str| -> Option<(usize, String)> {
        let (number, rest) = rest.split_once('_')?;
        Some((number.parse().ok()?, rest.to_string()))
    };
    if let Some(rest) = name.strip_prefix("middle_block_") {
        return Some(match numbered(rest)? {
            (1, rest) => format!("mid_block_attentions_0_{rest}"),
            (m, rest) => format!("mid_block_resnets_{}_{}", m / 2, of_resnet(&rest)),
        });
    }
    let (up, rest) = match name.strip_prefix("input_blocks_") {
        Some(rest) => (false, rest),
        None => (true, name.strip_prefix("output_blocks_")?),
    };
    let (n, rest) = numbered(rest)?;
    let (m, rest) = numbered(&rest)?;
    let n = if up { n } else { n.checked_sub(1)? };
    let (block, layer) = (n / LAYERS, n % LAYERS);
    Some(match (up, m) {
        (false, _) if rest == "op" => format!("down_blocks_{block}_downsamplers_0_conv"),
        (true, _) if m > 0 && rest == "conv" => format!("up_blocks_{block}_upsamplers_0_conv"),
        _ => {
            let side = if up { "up" } else { "down" };
            match m {
                0 => format!("{side}_blocks_{block}_resnets_{layer}_{}", of_resnet(&rest)),
                _ => format!("{side}_blocks_{block}_attentions_{layer}_{rest}"),
            }
        }
    })
}

fn of_resnet(name: &str) -> &str {
    match name {
        "in_layers_2" => "conv1",
        "out_layers_3" => "conv2",
        "emb_layers_1" => "time_emb_proj",
        "skip_connection" => "conv_shortcut",
        other => other,
    }
}

/// What is added to one weight: `factor · up · down`.
struct Change {
    down: Tensor,
    up: Tensor,
    factor: f64,
}

impl Change {
    /// # Shapes
    /// `weight` `(out, in)` or `(out, in, kh, kw)` → the same.
    fn apply(&self, weight: &Tensor) -> Result<Tensor> {
        let rank = self.down.dim(0)?;
        let (down, up) = (self.down.reshape((rank, ()))?, self.up.reshape(((), rank))?);
        if up.dim(0)? * down.dim(1)? != weight.elem_count() {
            candle_core::bail!(
                "a LoRA of {:?} and {:?} meets a weight of {:?}",
                self.up.dims(),
                self.down.dims(),
                weight.dims()
            );
        }
        // Rounded operands would be rounded once more when the weight is packed.
        let _exact = PrecisionScope::new(Precision::F32);
        let product = ops::linear(&up.contiguous()?, &down.t()?.contiguous()?, None)?;
        weight + (product.reshape(weight.shape())? * self.factor)?
    }
}

/// Gives each weight with its changes.
struct Merging {
    inner: VarBuilder<'static>,
    changes: HashMap<String, Vec<Change>>,
}

impl Merging {
    fn merge(&self, name: &str, weight: Tensor) -> Result<Tensor> {
        let changes = self.changes.get(name).map(Vec::as_slice).unwrap_or_default();
        changes.iter().try_fold(weight, |weight, change| change.apply(&weight))
    }
}

impl SimpleBackend for Merging {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, _: &Device) -> Result<Tensor> {
        self.merge(name, self.inner.get_with_hints_dtype(s, name, h, dtype)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        self.merge(name, self.inner.get_unchecked_dtype(name, dtype)?)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }
}

/// The weights of `part` with the changes of all `loras`; each is merged when the model asks for
/// it, so that nothing is held twice. A module that the model does not have is an error.
pub fn merged(
    weights: &Checkpoint,
    part: LoraPart,
    loras: &[Lora],
    device: &Device,
) -> std::result::Result<VarBuilder<'static>, DiffusionError> {
    let inner = weights.builder(DType::F32, device);
    if !loras.iter().any(|lora| lora.changes(part)) {
        return Ok(inner);
    }
    let names: BTreeMap<String, String> = weights
        .names()
        .into_iter()
        .filter_map(|name| Some((name.strip_suffix(".weight")?.replace('.', "_"), name)))
        .collect();
    let mut changes: HashMap<String, Vec<Change>> = HashMap::new();
    for lora in loras {
        for ((_, module), halves) in lora.modules.iter().filter(|((of, _), _)| *of == part) {
            let Some(name) = names.get(module) else {
                return Err(DiffusionError::Lora {
                    origin: lora.origin.clone(),
                    name: module.clone(),
                    reason: "the model has no such module".to_string(),
                });
            };
            let (Some(down), Some(up)) = (&halves.down, &halves.up) else { continue };
            let rank = down.dim(0)?.max(1) as f64;
            let factor = lora.scale * halves.alpha.unwrap_or(rank) / rank;
            let change = Change { down: down.clone(), up: up.clone(), factor };
            changes.entry(name.clone()).or_default().push(change);
        }
    }
    let merging = Merging { inner, changes };
    Ok(VarBuilder::from_backend(Box::new(merging), DType::F32, device.clone()))
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Linear};

    use super::*;

    const WEIGHT: &str = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0.weight";

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        Generator::new(seed).randn(shape.to_vec(), &Device::Cpu).unwrap()
    }

    fn model() -> Checkpoint {
        let tensors = HashMap::from([
            (WEIGHT.to_string(), random(1, &[6, 4])),
            ("up_blocks.0.resnets.2.conv1.weight".to_string(), random(2, &[4, 3, 3, 3])),
        ]);
        Checkpoint::from_tensors("model", tensors)
    }

    fn lora(names: [&str; 2], alpha: Option<(&str, f32)>) -> Lora {
        let mut tensors = HashMap::from([
            (names[0].to_string(), random(3, &[2, 4])),
            (names[1].to_string(), random(4, &[6, 2])),
        ]);
        if let Some((name, value)) = alpha {
            tensors.insert(name.into(), Tensor::new(value, &Device::Cpu).unwrap());
        }
        Lora::read("lora", &Checkpoint::from_tensors("lora", tensors), 0.5, None).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let all = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        all.max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    /// The merged weight.
    fn weight(loras: &[Lora]) -> Tensor {
        let vb = merged(&model(), LoraPart::Unet, loras, &Device::Cpu).unwrap();
        vb.get((6, 4), WEIGHT).unwrap()
    }

    #[test]
    fn every_dialect_names_the_same_weight() {
        let module = "down_blocks.1.attentions.0.transformer_blocks.1.attn2";
        let flat = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_out_0";
        let original = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0";
        let dialects = [
            (format!("unet.{module}.to_out.0"), ".lora_A.weight", ".lora_B.weight"),
            (format!("base_model.model.{module}.to_out.0"), ".lora_A.weight", ".lora_B.weight"),
            (format!("unet.{module}.to_out.0"), ".lora.down.weight", ".lora.up.weight"),
            (format!("unet.{module}.processor.to_out"), "_lora.down.weight", "_lora.up.weight"),
            (flat.to_string(), ".lora_down.weight", ".lora_up.weight"),
            (original.to_string(), ".lora_down.weight", ".lora_up.weight"),
        ];
        let product = random(4, &[6, 2]).matmul(&random(3, &[2, 4])).unwrap();
        let expected = (random(1, &[6, 4]) + (product * 0.5).unwrap()).unwrap();
        for (module, down, up) in dialects {
            let names = [format!("{module}{down}"), format!("{module}{up}")];
            let lora = lora([&names[0], &names[1]], None);
            assert!(difference(&weight(&[lora]), &expected) < 1e-5, "{module}{down}");
        }
    }

    #[test]
    fn alpha_over_rank_scales_and_changes_add_up() {
        let module = WEIGHT.strip_suffix(".weight").unwrap();
        let names = [format!("{module}.lora_down.weight"), format!("{module}.lora_up.weight")];
        let alpha = format!("{module}.alpha");
        let plain = lora([&names[0], &names[1]], None);
        let quarter = lora([&names[0], &names[1]], Some((&alpha, 0.5)));
        let base = weight(&[]);
        let change = |loras: &[Lora]| (weight(loras) - &base).unwrap();
        let expected = (change(std::slice::from_ref(&plain)) * 1.25).unwrap();
        assert!(difference(&change(&[plain, quarter]), &expected) < 1e-5);
    }

    #[test]
    fn convolutions_and_original_names_are_found() {
        let module = "lora_unet_output_blocks_2_0_in_layers_2";
        let tensors = HashMap::from([
            (format!("{module}.lora_down.weight"), random(5, &[2, 3, 3, 3])),
            (format!("{module}.lora_up.weight"), random(6, &[4, 2, 1, 1])),
        ]);
        let checkpoint = Checkpoint::from_tensors("lora", tensors);
        let lora = Lora::read("lora", &checkpoint, 1.0, None).unwrap();
        let vb = merged(&model(), LoraPart::Unet, &[lora], &Device::Cpu).unwrap();
        let merged = vb.get((4, 3, 3, 3), "up_blocks.0.resnets.2.conv1.weight").unwrap();
        let (up, down) = (random(6, &[4, 2]), random(5, &[2, 27]));
        let product = up.matmul(&down).unwrap().reshape((4, 3, 3, 3)).unwrap();
        let expected = (random(2, &[4, 3, 3, 3]) + product).unwrap();
        assert!(difference(&merged, &expected) < 1e-5);
    }

    #[test]
    fn modules_of_another_model_and_other_methods_are_refused() {
        let names = ["unet.mid_block.to_q.lora_A.weight", "unet.mid_block.to_q.lora_B.weight"];
        let other = lora(names, None);
        let refused = merged(&model(), LoraPart::Unet, &[other], &Device::Cpu);
        let message = refused.err().unwrap().to_string();
        assert!(message.contains("mid_block_to_q"), "{message}");
        let hada = HashMap::from([("unet.x.hada_w1_a".to_string(), random(1, &[2, 2]))]);
        let refused = Lora::read("lora", &Checkpoint::from_tensors("l", hada), 1.0, None);
        assert!(refused.err().unwrap().to_string().contains("hada_w1_a"));
    }

    #[test]
    fn a_layer_loads_merged() {
        let module = WEIGHT.strip_suffix(".weight").unwrap();
        let names = [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")];
        let lora = lora([&names[0], &names[1]], None);
        let checkpoint = model();
        let vb = merged(&checkpoint, LoraPart::Unet, &[lora], &Device::Cpu).unwrap();
        Linear::load_no_bias(vb.pp(module), 4, 6).unwrap();
        let left = checkpoint.finish(&[]).unwrap_err().to_string();
        assert!(left.contains("conv1"), "{left}");
    }
}
