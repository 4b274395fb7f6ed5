//! Pictures as tensors and back, their distance, contact sheets.

use std::path::Path;

use any2pix_encoders::image::{ImageLimits, composite};
use candle_core::{DType, Device, Tensor};
use image::{RgbImage, RgbaImage, imageops};

use crate::{Result, TrainError};

/// A picture as the encoders' reader would hand it on.
pub fn flat(picture: &RgbaImage) -> RgbImage {
    composite(picture, ImageLimits::default().background)
}

/// Pictures of one size as one batch in `[-1, 1]`.
///
/// # Shapes
/// `n` pictures → `(n, 3, h, w)`.
pub fn to_tensor<'a>(pictures: impl IntoIterator<Item = &'a RgbImage>) -> Result<Tensor> {
    let batch = pictures
        .into_iter()
        .map(|picture| {
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            let values: Vec<f32> =
                picture.as_raw().iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
            Tensor::from_vec(values, (height, width, 3), &Device::Cpu)?.permute((2, 0, 1))
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&batch, 0)?)
}

/// Each picture of a batch in `[-1, 1]`, clamped.
///
/// # Shapes
/// `(n, 3, h, w)` → n pictures.
pub fn to_pictures(batch: &Tensor) -> Result<Vec<RgbImage>> {
    let (n, _, height, width) = batch.dims4()?;
    let bytes = ((batch.clamp(-1.0, 1.0)? * 127.5)? + 128.0)?; // + 0.5 to round
    let bytes = bytes.to_dtype(DType::U8)?.permute((0, 2, 3, 1))?;
    (0..n)
        .map(|i| {
            let values = bytes.get(i)?.flatten_all()?.to_vec1::<u8>()?;
            RgbImage::from_raw(width as u32, height as u32, values).ok_or_else(|| {
                TrainError::Data { what: "a picture has lost bytes".into(), hint: String::new() }
            })
        })
        .collect()
}

/// Squared error inside and outside of a mask, each with the number of values it is over.
pub fn squared_error(a: &Tensor, b: &Tensor, mask: &Tensor) -> Result<[(f64, f64); 2]> {
    let error = (a - b)?.sqr()?.mean_keepdim(1)?;
    let sum = |t: Tensor| -> Result<f64> { Ok(f64::from(t.sum_all()?.to_scalar::<f32>()?)) };
    let inside = (sum((&error * mask)?)?, sum(mask.clone())?);
    let outside = mask.affine(-1.0, 1.0)?;
    Ok([inside, (sum((&error * &outside)?)?, sum(outside)?)])
}

/// Peak signal-to-noise ratio of a mean squared error of values in `[-1, 1]`.
pub fn psnr(mean_squared_error: f64) -> f64 {
    10.0 * (4.0 / mean_squared_error.max(1e-12)).log10()
}

/// Rows of pictures of one size as one PNG.
pub fn contact_sheet(rows: &[Vec<RgbImage>], path: &Path) -> Result<()> {
    let Some(first) = rows.iter().flatten().next() else { return Ok(()) };
    let (width, height) = (first.width() + 2, first.height() + 2);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let mut sheet = RgbImage::new(columns * width, rows.len() as u32 * height);
    for (y, row) in rows.iter().enumerate() {
        for (x, picture) in row.iter().enumerate() {
            let (left, top) = (x as u32 * width + 1, y as u32 * height + 1);
            imageops::replace(&mut sheet, picture, i64::from(left), i64::from(top));
        }
    }
    sheet.save(path).map_err(|e| TrainError::Data {
        what: format!("{}: cannot be written: {e}", path.display()),
        hint: "is there space, and may you write there?".into(),
    })
}
