//! A plan as the outcome remembers it, and as people read it.

use any2pix_llm::EditPlan;

use crate::inputs::Input;
use crate::outcome::{PlanReport, SubjectReport};

/// What the outcome says of `plan`.
pub(crate) fn report(plan: &EditPlan, inputs: &[Input]) -> PlanReport {
    let name = |index: usize| inputs.get(index).map(|input| input.name.clone());
    let subjects = |role: &'static str, list: &[any2pix_llm::plan::Subject]| {
        list.iter()
            .map(|subject| SubjectReport {
                name: subject.name.clone(),
                role: role.to_string(),
                reference: subject.reference.and_then(name),
                gallery: None,
                similarity: None,
                region: None,
                window: None,
            })
            .collect::<Vec<_>>()
    };
    let mut all = subjects("remove", &plan.removals);
    all.extend(subjects("add", &plan.additions));
    PlanReport {
        base: plan.base.as_ref().and_then(|base| name(base.reference)),
        operation: plan.operation.map_or(String::new(), |operation| operation.word().to_string()),
        caption: plan.caption.clone(),
        subjects: all,
        place: plan.place.clone(),
        look: plan.look.clone(),
        text: plan.text.clone(),
        unbound_text: None,
    }
}

/// What the outcome says of two steps together.
pub(crate) fn joined(first: PlanReport, next: PlanReport) -> PlanReport {
    let both = |a: String, b: String, between: &str| format!("{a}{between}{b}");
    PlanReport {
        base: first.base,
        operation: both(first.operation, next.operation, ", then "),
        caption: next.caption,
        subjects: first.subjects.into_iter().chain(next.subjects).collect(),
        place: first.place.or(next.place),
        look: first.look.or(next.look),
        text: both(first.text, next.text, "\n"),
        unbound_text: None,
    }
}

/// The plan as people read it; a model that names no operation has no line for it.
pub(crate) fn lines(report: &PlanReport) -> Vec<String> {
    let mut lines = vec![
        format!("base       {}", report.base.as_deref().unwrap_or("none: a new picture")),
        format!("operation  {}", report.operation),
        format!("caption    {}", report.caption),
    ];
    lines.retain(|line| line != "operation  ");
    for subject in &report.subjects {
        let from = subject.reference.as_deref().map_or(String::new(), |r| format!(" [{r}]"));
        lines.push(format!("{:<10} {}{from}", subject.role, subject.name));
    }
    lines.extend(report.place.as_deref().map(|place| format!("place      {place}")));
    lines.extend(report.unbound_text.as_deref().map(|text| format!("text       {text}")));
    lines.extend(report.look.as_deref().map(|look| format!("look       {look}")));
    lines
}
