//! Whether an embedding finds what it should among others.

/// Cosine of two vectors; 0 when one of them is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let scale = (dot(a, a) * dot(b, b)).sqrt();
    if scale > 0.0 { dot(a, b) / scale } else { 0.0 }
}

/// How many of `others` are at least as near to `query` as `target` is: 0 means found.
pub fn rank(query: &[f32], target: &[f32], others: &[Vec<f32>]) -> usize {
    let own = cosine(query, target);
    others.iter().filter(|other| cosine(query, other) >= own).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_has_rank_nought_and_a_tie_does_not_count_as_found() {
        let others = vec![vec![0.0, 1.0], vec![1.0, 1.0]];
        assert_eq!(rank(&[2.0, 0.1], &[1.0, 0.0], &others), 0);
        assert_eq!(rank(&[0.0, 1.0], &[1.0, 0.0], &others), 2);
        assert_eq!(rank(&[0.0, 1.0], &[0.0, 3.0], &others), 1);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
    }
}
