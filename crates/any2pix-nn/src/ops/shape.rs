//! Changes of shape that copy.

use candle_core::{Result, Tensor};

/// Doubles height and width by repeating each position.
///
/// # Shapes
/// `(b, h, w, c)` → `(b, 2h, 2w, c)`.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?.contiguous()?.reshape((
        b,
        2 * h,
        2 * w,
        c,
    ))
}
