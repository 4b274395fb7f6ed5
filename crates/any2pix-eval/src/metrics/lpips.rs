//! LPIPS over parts of a picture: the layers' maps, brought to its size, where they count.

use super::pixels::Where;

/// A layer's differences, row by row.
pub struct Map {
    /// Its width.
    pub width: usize,
    /// Its values, of which there is at least one.
    pub values: Vec<f32>,
}

impl Map {
    /// The value at a place in fractions of the picture, between its neighbours as torch's
    /// `interpolate` has it (bilinear, corners not aligned).
    fn at(&self, u: f64, v: f64) -> f64 {
        let height = self.values.len() / self.width.max(1);
        let near = |part: f64, count: usize| {
            let place = (part * count as f64 - 0.5).max(0.0);
            let first = (place as usize).min(count.saturating_sub(1));
            (first, (first + 1).min(count.saturating_sub(1)), place - first as f64)
        };
        let ((left, right, x), (top, bottom, y)) = (near(u, self.width), near(v, height));
        let value = |row: usize, column: usize| {
            f64::from(self.values.get(row * self.width + column).copied().unwrap_or_default())
        };
        let row = |row: usize| value(row, left) * (1.0 - x) + value(row, right) * x;
        row(top) * (1.0 - y) + row(bottom) * y
    }
}

/// The sum of the maps, and its mean over the compared places of a picture of `size`; everywhere,
/// the mean of each map as it is. Nothing when no place is compared.
pub fn mean(maps: &[Map], size: (u32, u32), place: Where<'_>) -> Option<f64> {
    if !place.fits(size) || maps.iter().any(|map| map.values.is_empty()) {
        return None;
    }
    if matches!(place, Where::Everywhere) {
        let own = |map: &Map| {
            map.values.iter().map(|v| f64::from(*v)).sum::<f64>() / map.values.len() as f64
        };
        return Some(maps.iter().map(own).sum());
    }
    let (mut sum, mut count) = (0.0, 0u64);
    for (x, y) in (0..size.1).flat_map(|y| (0..size.0).map(move |x| (x, y))) {
        if place.takes(x, y) {
            let part = |at: u32, whole: u32| (f64::from(at) + 0.5) / f64::from(whole);
            let (u, v) = (part(x, size.0), part(y, size.1));
            sum += maps.iter().map(|map| map.at(u, v)).sum::<f64>();
            count += 1;
        }
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma};

    #[test]
    fn parts_are_weighed_by_where_they_are() {
        let maps = [Map { width: 2, values: vec![0.0, 4.0] }, Map { width: 1, values: vec![1.0] }];
        assert_eq!(mean(&maps, (4, 2), Where::Everywhere), Some(3.0));
        // Of four columns, torch's interpolate gives 0, 1, 3 and 4.
        let mut mask = GrayImage::new(4, 2);
        mask.put_pixel(1, 0, Luma([255]));
        assert_eq!(mean(&maps, (4, 2), Where::Inside(&mask)), Some(2.0));
        let rest = (0.0 + 3.0 + 4.0 + 0.0 + 1.0 + 3.0 + 4.0) / 7.0 + 1.0;
        assert!((mean(&maps, (4, 2), Where::Outside(&mask)).unwrap() - rest).abs() < 1e-12);
        assert_eq!(mean(&maps, (4, 2), Where::Inside(&GrayImage::new(4, 2))), None);
        assert_eq!(mean(&maps, (3, 2), Where::Inside(&mask)), None);
    }
}
