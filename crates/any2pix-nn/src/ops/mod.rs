//! Tensor operations that models are made of, with gradients; channels-last throughout.
//!
//! On the CPU, f32 tensors go through `any2pix-kernels`; other devices and types through candle.

mod activation;
mod attention;
mod conv;
mod cpu;
mod frozen;
mod gradients;
mod linear;
mod modulate;
mod norm;
mod precision;
mod quantised;
mod recompute;
mod rotary;
mod shape;

pub use activation::{geglu, gelu, gelu_tanh, quick_gelu, silu, softmax, softplus, swiglu};
pub use attention::{Mask, attention};
pub use conv::conv2d;
pub(crate) use cpu::with_slice;
pub use frozen::Frozen;
pub use gradients::backward;
pub use linear::linear;
pub use modulate::modulate;
pub use norm::{group_norm, layer_norm, rms_norm};
pub use precision::{PrecisionScope, multiplies_bf16, precision, set_precision};
pub use quantised::{Quantisation, Quantised};
pub use recompute::recomputed;
pub use rotary::rotary;
pub use shape::{add, add_to_each_position, concat_channels, upsample_nearest2x};

pub use any2pix_kernels::{Level, Precision};

#[cfg(test)]
mod tests;
