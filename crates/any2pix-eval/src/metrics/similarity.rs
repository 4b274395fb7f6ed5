//! What published comparisons make of embeddings: cosines, directions, preferences.

use super::retrieval::cosine;

fn unit(vector: &[f32]) -> Vec<f64> {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { length.recip() } else { 0.0 };
    vector.iter().map(|v| f64::from(*v) * scale).collect()
}

/// From the first to the second, both made as long as 1.
fn difference([from, to]: [&[f32]; 2]) -> Vec<f32> {
    unit(to).iter().zip(unit(from)).map(|(to, from)| (to - from) as f32).collect()
}

/// Whether pictures differ as their captions do: the cosine of the two differences, each of
/// before and after. 0 when nothing was changed.
pub fn directional(images: [&[f32]; 2], texts: [&[f32]; 2]) -> f64 {
    cosine(&difference(images), &difference(texts))
}

/// CLIPScore: the cosine in hundredths, and nothing below none.
pub fn clip_score(image: &[f32], text: &[f32]) -> f64 {
    (100.0 * cosine(image, text)).max(0.0)
}

/// PickScore: the cosine times the model's own scale.
pub fn pick_score(logit_scale: f32, text: &[f32], image: &[f32]) -> f64 {
    f64::from(logit_scale) * cosine(text, image)
}

/// How likely each of several pictures is picked, by its score.
pub fn preferences(scores: &[f64]) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_that_goes_the_way_of_its_captions_has_direction_one() {
        let (a, b) = ([1.0, 0.0], [0.0, 2.0]);
        assert!((directional([&a, &b], [&[3.0, 0.0], &[0.0, 1.0]]) - 1.0).abs() < 1e-6);
        assert!((directional([&b, &a], [&a, &b]) + 1.0).abs() < 1e-6);
        assert_eq!(directional([&a, &a], [&a, &b]), 0.0);
    }

    #[test]
    fn preferences_share_out_one_and_large_scores_do_not_overflow() {
        let shares = preferences(&[1000.0, 1000.0 + 3.0f64.ln()]);
        assert!((shares[0] - 0.25).abs() < 1e-9 && (shares[1] - 0.75).abs() < 1e-9);
        assert_eq!(clip_score(&[1.0], &[-1.0]), 0.0);
    }
}
