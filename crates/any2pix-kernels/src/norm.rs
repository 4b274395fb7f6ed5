//! Group, layer and root-mean-square normalisation, forward and backward.

mod group;
mod row;

pub use group::{GroupShape, GroupStatistics, group_norm, group_norm_backward};
pub use row::{RowNorm, row_norm, row_norm_backward};
