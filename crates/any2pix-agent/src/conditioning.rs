//! The condition of the painter: base, generated and refined embeddings in one vector.

use any2pix_diffusion::latents::mix_embeddings;
use any2pix_llm::EditPlan;
use candle_core::{Result, Tensor};

use crate::error::AgentError;
use crate::inputs::row;
use crate::progress::Stage;
use crate::settings::EditSettings;

/// Embeddings that the painter is conditioned on, each `(1, e)`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The whole picture to come, at the settings' norm.
    pub picture: Tensor,
    /// The object that is painted; zeros when there is none.
    pub subject: Tensor,
}

/// `h0·base + h1·generated + h2·refined` at the settings' norm; without a base its share is left
/// out.
///
/// # Shapes
/// All `(1, e)`.
pub fn mix(
    base: Option<&[f32]>,
    generated: &Tensor,
    refined: &Tensor,
    settings: &EditSettings,
) -> Result<Condition> {
    let base = match base {
        Some(embedding) => row(embedding)?,
        None => generated.zeros_like()?,
    };
    let picture = mix_embeddings(&base, generated, refined, settings.mix, settings.norm)?;
    Ok(Condition { subject: picture.zeros_like()?, picture })
}

/// [`mix`] of what a plan says with its refined target.
pub(crate) fn of_plan(
    plan: &EditPlan,
    refined: &Tensor,
    settings: &EditSettings,
) -> std::result::Result<Condition, AgentError> {
    let base = plan.base.as_ref().map(|base| base.embedding.as_slice());
    row(&plan.gen_embedding)
        .and_then(|generated| mix(base, &generated, refined, settings))
        .map_err(AgentError::compute(Stage::Condition))
}

impl Condition {
    /// The same picture with another object.
    pub fn with_subject(&self, embedding: &[f32]) -> Result<Self> {
        Ok(Self { picture: self.picture.clone(), subject: row(embedding)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_has_the_norm_and_the_direction_of_its_parts() {
        let (base, refined) = ([3.0f32, 0.0, 0.0], row(&[0.0, 0.0, 5.0]).unwrap());
        let generated = row(&[0.0, 20.0, 0.0]).unwrap();
        let settings = EditSettings { mix: [1.0, 0.5, 0.5], norm: 15.0, ..Default::default() };
        let condition = mix(Some(&base), &generated, &refined, &settings).unwrap();
        let values = condition.picture.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((norm - 15.0).abs() < 1e-3, "{norm}");
        // 1·3 : 0.5·20 : 0.5·20 (the refined one is brought to 20 first).
        let scale = norm / (9.0f32 + 100.0 + 100.0).sqrt();
        for (value, expected) in values.iter().zip([3.0, 10.0, 10.0]) {
            assert!((value - expected * scale).abs() < 1e-3, "{values:?}");
        }
        let alone = mix(None, &generated, &refined, &settings).unwrap();
        assert_eq!(alone.picture.get(0).unwrap().to_vec1::<f32>().unwrap()[0], 0.0);
    }
}
