//! GGUF files as llama.cpp writes them: their names for tensors, and their order of rows.

use any2pix_nn::{Checkpoint, CheckpointError};

use crate::config::LlamaConfig;
use crate::error::LlmError;

/// Names outside of the layers.
const OUTER: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names within a layer.
const INNER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of what llama.cpp calls `name`; other names stay.
fn hugging_face(name: &str) -> String {
    if let Some((_, to)) = OUTER.iter().find(|(from, _)| *from == name) {
        return (*to).to_string();
    }
    let in_layer = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, field) = rest.rsplit_once('.')?;
        let (_, to) = INNER.iter().find(|(from, _)| *from == module)?;
        Some(format!("model.layers.{layer}.{to}.{field}"))
    };
    in_layer().unwrap_or_else(|| name.to_string())
}

/// Whether a checkpoint has llama.cpp's names.
pub fn is_llama_cpp(weights: &Checkpoint) -> bool {
    weights.names().iter().any(|name| name.starts_with("blk.") || *name == OUTER[0].0)
}

/// Where each row of a head's pairs lies: llama.cpp puts the two rows of a rotary pair beside
/// each other, Hugging Face has the first of all pairs before the second of all.
fn paired_rows(heads: usize, head_dim: usize) -> Vec<u32> {
    let half = head_dim / 2;
    let row = |head: usize, side: usize, pair: usize| head * head_dim + 2 * pair + side;
    (0..heads)
        .flat_map(|head| {
            (0..2).flat_map(move |side| (0..half).map(move |pair| row(head, side, pair)))
        })
        .map(|row| row as u32)
        .collect()
}

/// The same weights with Hugging Face's names and order of rows. Quantised blocks stay as they
/// are: a row is a whole number of them.
pub fn as_hugging_face(weights: &Checkpoint, config: &LlamaConfig) -> Result<Checkpoint, LlmError> {
    let architecture = weights.metadata().get("general.architecture").map_or("llama", |a| a);
    if architecture != "llama" {
        let reason = format!("weights of architecture `{architecture}`, not of a Llama");
        let origin = weights.origin().to_string();
        return Err(LlmError::Checkpoint(CheckpointError::Malformed { origin, reason }));
    }
    let renamed = weights.renamed(hugging_face)?;
    let head_dim = config.head_dim();
    let ordered = renamed.with_rows(|name| {
        let heads = match name.strip_suffix(".weight")?.rsplit_once('.')?.1 {
            "q_proj" => config.num_attention_heads,
            "k_proj" => config.kv_heads(),
            _ => return None,
        };
        Some(paired_rows(heads, head_dim))
    })?;
    Ok(ordered)
}
