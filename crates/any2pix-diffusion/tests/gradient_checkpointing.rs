//! A UNet that computes its blocks again in the backward pass has the gradients of one that does not.

#![allow(clippy::unwrap_used)]

use any2pix_diffusion::UNet2DConditionModelConfig;
use any2pix_diffusion::unet::{Context, ImagePrompt, UNet2DConditionModel, UNetConditions};
use any2pix_nn::{Generator, Parameters};
use candle_core::{Device, Tensor};

const CONFIG: &str = r#"{"in_channels": 4, "out_channels": 2, "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1,
    "attention_head_dim": 2, "cross_attention_dim": 6, "norm_num_groups": 4}"#;

/// The gradients of every weight, by name, of the same small UNet.
fn gradients(checkpointing: bool) -> Vec<(String, Vec<f32>)> {
    let device = &Device::Cpu;
    let config: UNet2DConditionModelConfig = serde_json::from_str(CONFIG).unwrap();
    let parameters = Parameters::new(1);
    let vb = parameters.builder(device);
    let mut unet = UNet2DConditionModel::load(vb.clone(), &config).unwrap();
    unet.load_ip_adapter(vb.pp("ip_adapter")).unwrap();
    if checkpointing {
        unet.enable_gradient_checkpointing();
    }
    let mut generator = Generator::new(2);
    // Fresh weights of zero would hide what is behind them.
    for (_, variable) in parameters.named() {
        let noise = (generator.randn(variable.shape().clone(), device).unwrap() * 0.1).unwrap();
        variable.set(&(variable.as_tensor() + noise).unwrap()).unwrap();
    }
    let tokens = |n: usize, g: &mut Generator| g.randn((1, n, 6), device).unwrap();
    let context = Context {
        encoder_hidden_states: tokens(3, &mut generator),
        image_prompt: Some(ImagePrompt { tokens: tokens(2, &mut generator), scale: 0.7 }),
        control: None,
    };
    let sample: Tensor = generator.randn((1, 4, 8, 8), device).unwrap();
    let conditions = UNetConditions { context, added: None };
    let output = unet.forward(&sample, &[7.0], &conditions).unwrap();
    let store = any2pix_nn::backward(&output.sqr().unwrap().sum_all().unwrap()).unwrap();
    let values = |variable: &candle_core::Var| {
        store.get(variable).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    parameters.named().into_iter().map(|(name, variable)| (name, values(&variable))).collect()
}

#[test]
fn gradients_are_the_same_up_to_the_order_of_sums() {
    let (plain, again) = (gradients(false), gradients(true));
    assert!(plain.len() > 60 && plain.iter().all(|(_, g)| g.iter().any(|g| *g != 0.0)));
    for ((name, plain), (_, again)) in plain.iter().zip(&again) {
        let largest = plain.iter().fold(0.0f32, |top, g| top.max(g.abs()));
        let apart = plain.iter().zip(again).fold(0.0f32, |top, (a, b)| top.max((a - b).abs()));
        assert!(apart <= 1e-5 * largest.max(1.0), "{name}: {apart} of {largest}");
    }
}
