//! The ground on candle: layers, weights, chance and named intermediates; no model lives here.
//!
//! Activations of convolutional models are **channels-last**: `(batch, height, width, channels)`,
//! contiguous. Weights keep the shape and the name of the published checkpoint.

pub mod checkpoint;
pub mod error;
pub mod generator;
pub mod golden;
pub mod layers;
pub mod ops;
pub mod parameters;
pub mod tap;
pub mod timesteps;
pub mod update;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use error::Hint;
pub use generator::Generator;
pub use layers::{Conv2d, Embedding, GroupNorm, LayerNorm, Linear, RmsNorm};
pub use ops::backward;
pub use parameters::Parameters;

pub use any2pix_kernels::process::{prepare as prepare_process, release_memory};
pub use any2pix_kernels::{Engine, ceiling, operations_so_far};
