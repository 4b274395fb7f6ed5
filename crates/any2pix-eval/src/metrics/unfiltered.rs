//! Cubic resizing without a filter against aliasing, as torch's `interpolate` does it: what
//! ClipSimilarity of InstructPix2Pix shows its encoder.

use candle_core::{Device, Result, Tensor};

/// The parameter of torch's cubic; Pillow's is -0.5.
const A: f64 = -0.75;

/// Four neighbours of an output position, at the edge the last one again, and their weights.
fn window(position: usize, input: usize, output: usize) -> [(usize, f64); 4] {
    let centre = (position as f64 + 0.5) * input as f64 / output as f64 - 0.5;
    let first = centre.floor();
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let t = centre - first;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    let last = input.saturating_sub(1) as f64;
    std::array::from_fn(|i| ((first + i as f64 - 1.0).clamp(0.0, last) as usize, weights[i]))
}

/// # Shapes
/// `image` `(3, h, w)`, f32 → `(3, side, side)`; the aspect is not kept.
pub fn resized(image: &Tensor, side: usize) -> Result<Tensor> {
    let planes = image.to_vec3::<f32>()?;
    let (_, height, width) = image.dims3()?;
    if height == 0 || width == 0 {
        candle_core::bail!("a picture without pixels cannot be resized");
    }
    let across: Vec<_> = (0..side).map(|x| window(x, width, side)).collect();
    let down: Vec<_> = (0..side).map(|y| window(y, height, side)).collect();
    let mut values = Vec::with_capacity(planes.len() * side * side);
    for plane in &planes {
        let rows: Vec<Vec<f64>> = plane
            .iter()
            .map(|row| {
                let at = |window: &[(usize, f64); 4]| -> f64 {
                    window.iter().map(|(i, weight)| f64::from(row[*i]) * weight).sum()
                };
                across.iter().map(at).collect()
            })
            .collect();
        for window in &down {
            let at = |x: usize| window.iter().map(|(i, weight)| rows[*i][x] * weight).sum::<f64>();
            values.extend((0..side).map(|x| at(x) as f32));
        }
    }
    Tensor::from_vec(values, (planes.len(), side, side), &Device::Cpu)
}

/// # Shapes
/// `image` `(3, h, w)`, from 0 to 1 → the same, less `mean`, divided by `std`.
pub fn normalised(image: &Tensor, mean: [f32; 3], std: [f32; 3]) -> Result<Tensor> {
    let channels = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu)?.reshape((3, 1, 1));
    image.broadcast_sub(&channels(mean)?)?.broadcast_div(&channels(std)?)
}
