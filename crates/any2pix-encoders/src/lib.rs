//! Perception: image, audio and text to embeddings.

pub mod audio;
pub mod clip_text;
pub mod clip_tokenizer;
mod convnet;
pub mod error;
pub mod fbank;
pub mod file;
pub mod image;
pub mod imagebind;
pub mod judge;
pub mod locator;
pub mod parity;
pub mod resample;
pub mod resize;
mod sniff;
mod wav;

pub use convnet::pixels;
pub use error::{EncoderError, MediaError, Stage};
pub use imagebind::{ImageBindConfig, ImageBindModel};
pub use judge::{JudgeConfig, ObjectClassifier};
pub use locator::{Locator, LocatorConfig};
