//! Data sets, losses, optimiser, EMA, checkpoints and one recipe per stage.

pub mod playroom;
