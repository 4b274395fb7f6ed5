//! A CLIP text model, just enough to judge the pipelines without the crate that has the real one.

use any2pix_diffusion::parity::TextStates;
use any2pix_nn::{Checkpoint, Embedding, LayerNorm, Linear, ops};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde_json::Value;

fn layer(vb: VarBuilder, x: &Tensor, heads: usize, inner: usize, quick: bool) -> Result<Tensor> {
    let width = x.dim(2)?;
    let norm = |name: &str| LayerNorm::load(vb.pp(name), width, 1e-5);
    let hidden = norm("layer_norm1")?.forward(x)?;
    let project = |name: &str, x: &Tensor| {
        Linear::load(vb.pp("self_attn").pp(name), width, width)?.forward(x)
    };
    let (q, k, v) =
        (project("q_proj", &hidden)?, project("k_proj", &hidden)?, project("v_proj", &hidden)?);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let attended = ops::attention(&q, &k, &v, heads, heads, scale, ops::Mask::Causal)?;
    let x = (x + project("out_proj", &attended)?)?;
    let hidden = norm("layer_norm2")?.forward(&x)?;
    let hidden = Linear::load(vb.pp("mlp.fc1"), width, inner)?.forward(&hidden)?;
    let hidden = if quick { ops::quick_gelu(&hidden)? } else { ops::gelu(&hidden)? };
    &x + Linear::load(vb.pp("mlp.fc2"), inner, width)?.forward(&hidden)?
}

pub(crate) fn encode(weights: &Checkpoint, config: &Value, ids: &Tensor) -> Result<TextStates> {
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (width, inner) = (number("hidden_size"), number("intermediate_size"));
    let quick = config["hidden_act"] == "quick_gelu";
    let top = weights.builder(DType::F32, &Device::Cpu);
    let vb = top.pp("text_model");
    let table = |name: &str, rows| Embedding::load(vb.pp("embeddings").pp(name), rows, width);
    let positions = table("position_embedding", number("max_position_embeddings"))?;
    let tokens = table("token_embedding", number("vocab_size"))?;
    let n = ids.dim(1)?;
    let mut states = vec![
        tokens.forward(ids)?.broadcast_add(&positions.weight().narrow(0, 0, n)?.unsqueeze(0)?)?,
    ];
    for i in 0..number("num_hidden_layers") {
        let vb = vb.pp("encoder.layers").pp(i);
        let heads = number("num_attention_heads");
        states.push(layer(vb, &states[i], heads, inner, quick)?);
    }
    let last = LayerNorm::load(vb.pp("final_layer_norm"), width, 1e-5)?
        .forward(&states[states.len() - 1])?;
    let text_embeds = match weights.names().iter().any(|n| n == "text_projection.weight") {
        true => {
            let projected = number("projection_dim");
            let head = Linear::load_no_bias(top.pp("text_projection"), width, projected)?;
            Some(head.forward(&last.narrow(1, end_of_text(config, ids)?, 1)?.squeeze(1)?)?)
        }
        false => None,
    };
    Ok(TextStates { penultimate: states[states.len() - 2].clone(), last, text_embeds })
}

/// Old configs (end token 2) mean the largest id, newer ones the first end token.
fn end_of_text(config: &Value, ids: &Tensor) -> Result<usize> {
    let ids = ids.get(0)?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let eos = config["eos_token_id"].as_i64().unwrap();
    let wanted = if eos == 2 { ids.iter().copied().max().unwrap() } else { eos };
    Ok(ids.iter().position(|id| *id == wanted).unwrap())
}
