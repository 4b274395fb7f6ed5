//! What a sound was taken for: where other names are nearly as near, people are told.

use any2pix_llm::EditPlan;
use any2pix_llm::plan;

use crate::components::Components;
use crate::error::AgentError;
use crate::inputs::Input;
use crate::knowledge::Vocabulary;
use crate::run::Run;

/// The nearest name is in doubt if the next is nearer than this, in cosines. Of the recordings that
/// the embedded model was trained on and hears rightly a tenth are, of those that it was not trained
/// on and mishears three quarters.
const DOUBT: f32 = 0.1;
/// How many other names are mentioned.
const OTHERS: usize = 2;

/// Warns of things to add that are given by sounds of which the model is not sure.
pub(crate) fn doubts(
    plan: &EditPlan,
    inputs: &[Input],
    components: &Components,
    vocabulary: &Vocabulary,
    run: &mut Run,
) -> Result<(), AgentError> {
    let names = vocabulary.trained();
    for subject in &plan.additions {
        let input = subject.reference.and_then(|index| inputs.get(index));
        let Some(sound) = input.filter(|input| input.picture().is_none()) else { continue };
        let spoken = vocabulary.spoken(components)?.iter().zip(names);
        let near = spoken
            .map(|(name, concept)| (plan::cosine(name, &sound.embedding), concept.name.as_str()));
        if let Some(others) = others(near.collect(), &subject.name) {
            let (taken, file) = (&subject.name, &sound.name);
            run.warn(format!(
                "not sure of [{file}]: taken for `{taken}`, near are `{}`; to choose, name it: \
                 `{} [{file}]`",
                others.join("`, `"),
                others[0]
            ));
        }
    }
    Ok(())
}

/// The names that are nearest beside `taken`, if that is in doubt.
fn others<'a>(mut near: Vec<(f32, &'a str)>, taken: &str) -> Option<Vec<&'a str>> {
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let is_sure = match near[..] {
        [first, second, ..] => first.1 == taken && first.0 - second.0 >= DOUBT,
        _ => true,
    };
    let others = near.into_iter().map(|(_, name)| name).filter(|name| *name != taken);
    (!is_sure).then(|| others.take(OTHERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_named_where_they_are_nearly_as_near() {
        let near = |cow: f32| vec![(0.2, "bell"), (cow, "cow"), (0.6, "dog"), (0.3, "car")];
        assert_eq!(others(near(0.45), "dog"), None);
        assert_eq!(others(near(0.55), "dog"), Some(vec!["cow", "car"]));
        assert_eq!(others(near(0.45), "cow"), Some(vec!["dog", "car"]), "not the nearest");
        assert_eq!(others(near(0.45)[..1].to_vec(), "bell"), None, "there is no other");
    }
}
