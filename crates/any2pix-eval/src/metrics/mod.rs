//! Numbers about one edit, and what many of them say together.

pub mod lpips;
pub mod pixels;
pub mod region;
pub mod retrieval;
pub mod similarity;
pub mod ssim;
pub mod statistics;
pub mod unfiltered;
