//! A fresh ImageBindModel learns to tell a handful of pictures and sounds apart by their names.

use any2pix_encoders::{ImageBindConfig, ImageBindModel};
use any2pix_nn::{Generator, Parameters};
use candle_core::{D, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

const PAIRS: usize = 6;

fn config() -> ImageBindConfig {
    ImageBindConfig {
        vision_image_size: 32,
        kernel_size: [1, 8, 8],
        video_frames: 1,
        vision_embed_dim: 64,
        vision_num_blocks: 3,
        vision_num_heads: 4,
        audio_stride: 16,
        audio_num_mel_bins: 32,
        audio_target_len: 48,
        audio_embed_dim: 64,
        audio_num_blocks: 2,
        audio_num_heads: 4,
        text_vocab_size: 40,
        text_context_length: 8,
        text_embed_dim: 64,
        text_num_blocks: 2,
        text_num_heads: 4,
        out_embed_dim: 32,
        ..ImageBindConfig::default()
    }
}

#[test]
fn pairs_find_each_other_within_sixty_steps() {
    let (parameters, device) = (Parameters::new(2), Device::Cpu);
    let model = ImageBindModel::load(parameters.builder(&device), &config()).unwrap();
    let vars: Vec<Var> = parameters.named().into_iter().map(|(_, var)| var).collect();
    let settings = ParamsAdamW { lr: 6e-4, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut adam = AdamW::new(vars, settings).unwrap();
    let mut generator = Generator::new(4);
    let names: Vec<Vec<u32>> = (0..PAIRS as u32).map(|i| vec![1, 2 + i, 20 + i]).collect();
    let names = model.text_input(&names).unwrap();
    let pictures = generator.randn((PAIRS, 3, 32, 32), &device).unwrap();
    let sounds = generator.randn((PAIRS, 1, 32, 48), &device).unwrap();
    let own = Tensor::arange(0u32, PAIRS as u32, &device).unwrap();
    let logits = |pictures: &Tensor| -> (Tensor, Tensor) {
        let text = model.text.forward_unit(&names).unwrap().t().unwrap();
        let scale = model.text.logit_scale().unwrap();
        let against = |x: Tensor| x.matmul(&text).unwrap().broadcast_mul(&scale).unwrap();
        let seen = against(model.vision.forward(pictures).unwrap());
        (seen, against(model.audio.forward_clips(&sounds).unwrap()))
    };
    for _ in 0..60 {
        // Noise as loud as the signal: the towers must find what stays the same.
        let noisy = (&pictures + generator.randn_like(&pictures).unwrap()).unwrap();
        let (seen, heard) = logits(&noisy);
        let loss = |x: &Tensor| candle_nn::loss::cross_entropy(x, &own).unwrap();
        adam.backward_step(&(loss(&seen) + loss(&heard)).unwrap()).unwrap();
    }
    let (seen, heard) = logits(&pictures);
    let right = own.to_vec1::<u32>().unwrap();
    assert_eq!(seen.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(), right);
    assert_eq!(heard.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(), right);
}
