//! Numbers about one edit, and what many of them say together.

pub mod pixels;
pub mod region;
pub mod retrieval;
pub mod statistics;
