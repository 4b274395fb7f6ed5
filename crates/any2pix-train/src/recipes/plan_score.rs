//! Plans on held-out samples against what is true of them.

use std::collections::BTreeMap;

use any2pix_llm::plan::{EditPlan, Subject};
use any2pix_llm::planner::Planner;
use any2pix_nn::Generator;

use super::embedder::Embedded;
use super::instruct::{pieces, told};
use super::planner_stage::{Examined, Source};
use super::unknown;
use crate::Result;
use crate::playroom::sample::{Familiarity, Kind, Modality, ObjectSlot, Sample};
use crate::playroom::splits::Split;

/// Samples that are planned between two looks at the encoder.
const AT_ONCE: usize = 20;
/// Plans that are shown.
const SHOWN: usize = 40;

/// What of a plan is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    base: bool,
    operation: bool,
    objects: bool,
    place: bool,
}

impl Verdict {
    fn all(self) -> bool {
        self.base && self.operation && self.objects
    }
}

/// An object is understood when it is named, or when the picture that shows it is pointed at.
fn is_object(subject: &Subject, slot: &ObjectSlot) -> bool {
    let pointed = slot.modality == Modality::Image && subject.reference == slot.media;
    subject.name == slot.concept || pointed
}

fn same_objects(subjects: &[Subject], slots: &[ObjectSlot]) -> bool {
    subjects.len() == slots.len()
        && slots.iter().all(|slot| subjects.iter().any(|subject| is_object(subject, slot)))
}

fn judge(plan: &EditPlan, sample: &Sample) -> Verdict {
    // Both ends of an adjustment are one thing: it is named once.
    let unwanted = if sample.kind == Kind::Adjust { &[][..] } else { &sample.unwanted[..] };
    Verdict {
        base: plan.base.as_ref().map(|base| base.reference) == sample.base,
        operation: plan.operation.is_some_and(|o| o.word() == sample.operation),
        objects: same_objects(&plan.additions, &sample.wanted)
            && same_objects(&plan.removals, unwanted),
        place: plan.place.as_deref() == sample.place.map(|place| place.word()),
    }
}

/// The hardest way in which the sample refers to an object.
fn group(sample: &Sample) -> &'static str {
    let slots = || sample.wanted.iter().chain(&sample.unwanted);
    let any = |modality| slots().any(|slot| slot.modality == modality);
    let fresh =
        |modality| slots().any(|s| s.modality == modality && s.familiarity != Familiarity::Known);
    if slots().next().is_none() {
        "whole"
    } else if fresh(Modality::Sound) {
        "sound_held_out"
    } else if any(Modality::Sound) {
        "sound_known"
    } else if fresh(Modality::Image) {
        "image_held_out"
    } else if any(Modality::Image) {
        "image_known"
    } else {
        "text"
    }
}

/// Means by name, in the order of the names.
#[derive(Default)]
struct Tally(BTreeMap<String, (f64, f64)>);

impl Tally {
    fn add(&mut self, name: &str, right: bool) {
        let (sum, count) = self.0.entry(name.to_string()).or_default();
        *sum += f64::from(u8::from(right));
        *count += 1.0;
    }

    fn means(self) -> Vec<(String, f64)> {
        self.0.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect()
    }
}

/// Plans held-out samples of all kinds in turn.
pub(super) fn examine(
    source: &Source,
    planner: &Planner,
    generator: &mut Generator,
) -> Result<Examined> {
    let (mut tally, mut lines) = (Tally::default(), Vec::new());
    let count = source.settings.evaluate_samples;
    for first in (0..count).step_by(AT_ONCE) {
        let samples: Vec<Sample> = (first..count.min(first + AT_ONCE))
            .map(|i| {
                let kind = Kind::ALL[i % Kind::ALL.len()];
                source.world.sample(generator, Split::HeldOut, Some(kind))
            })
            .collect();
        for (sample, embedded) in samples.iter().zip(source.embedder.embed(&samples)?) {
            let said = sample.instruction();
            let line = match planner.plan(&pieces(sample), &embedded.media) {
                Ok(plan) => {
                    let verdict = judge(&plan, sample);
                    record(&mut tally, sample, verdict);
                    let mark = if verdict.all() && verdict.place { "ok " } else { "BAD" };
                    format!("{mark} {said}\n    {}", plan.text)
                }
                Err(refusal) => {
                    let nothing =
                        Verdict { base: false, operation: false, objects: false, place: false };
                    record(&mut tally, sample, nothing);
                    format!("BAD {said}\n    {refusal}")
                }
            };
            if lines.len() < SHOWN {
                lines.push(line);
            }
            unknown_thing(source, planner, (sample, &embedded), &mut tally, generator);
        }
    }
    Ok(Examined { figures: tally.means(), lines })
}

fn record(tally: &mut Tally, sample: &Sample, verdict: Verdict) {
    tally.add("plan", verdict.all());
    tally.add(&format!("plan_{}", group(sample)), verdict.all());
    tally.add("base", verdict.base);
    tally.add("operation", verdict.operation);
    tally.add("objects", verdict.objects);
    tally.add("place", verdict.place);
}

/// Whether a thing that nobody knows is called what the user calls it.
fn unknown_thing(
    source: &Source,
    planner: &Planner,
    (sample, embedded): (&Sample, &Embedded),
    tally: &mut Tally,
    generator: &mut Generator,
) {
    let thing = unknown::name(Split::HeldOut, generator);
    let example = told(source, sample, embedded);
    let Some(retold) = unknown::retell(sample, &example, &thing) else { return };
    let named = planner.plan(&retold.instruction, &retold.references).is_ok_and(|plan| {
        plan.additions.iter().chain(&plan.removals).any(|subject| subject.name == thing)
    });
    tally.add("unknown_named", named);
}
