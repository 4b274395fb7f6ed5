//! CPU compute on plain slices: GEMM, convolution, attention, normalisation, forward and backward.
//!
//! Functions take an [`Engine`]: the instruction set and the precision of products to use.
//! Each output element is reduced in one fixed order, so results do not depend on the number of
//! threads; they may differ in the last bits between engines.

pub mod activation;
pub mod attention;
pub mod buffer;
pub mod ceiling;
pub mod conv;
pub mod elementwise;
pub mod gemm;
pub mod level;
mod math;
pub mod modulate;
pub mod norm;
pub mod optimizer;
pub mod process;
pub mod quantised;
mod reduce;
pub mod rotary;
mod scratch;
#[cfg(test)]
mod testing;

pub use conv::{
    ConvShape, conv2d, conv2d_by_data, conv2d_by_weight, conv2d_packed, conv2d_packed_by_data,
    pack_conv2d,
};
pub use gemm::{
    Dense, Matrix, Operand, Output, Packed, Size, gemm, gemm_packed, operations_so_far,
};
pub use level::{Engine, Level, Precision};
pub use optimizer::{AdamW, adamw_step, ema, sum_of_squares};
pub use reduce::sum_rows;
