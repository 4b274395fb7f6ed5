//! `Task`: what an [`EditPlan`] asks of the painter, one window at a time.

use any2pix_llm::{EditPlan, Operation};

/// One thing to paint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Paint the background over the plan's removal of that index.
    Erase(usize),
    /// Paint the plan's addition of that index where it fits.
    Add(usize),
    /// Paint the addition where the removal stands.
    Replace {
        /// Index of the removal.
        removal: usize,
        /// Index of the addition.
        addition: usize,
    },
    /// Change the addition where it stands: its colour or its size.
    Alter(usize),
    /// Take the addition from where it stands to where the plan wants it.
    Move(usize),
    /// Paint the addition, which is in the picture already, once more.
    Repeat(usize),
    /// Paint the whole picture anew.
    Restyle,
    /// Paint a picture from nothing.
    Make,
}

/// The tasks of a plan, in order; empty when nothing follows from it.
pub fn tasks(plan: &EditPlan) -> Vec<Task> {
    let (additions, removals) = (plan.additions.len(), plan.removals.len());
    if plan.base.is_none() {
        // A scene first, then what it shows: small things are painted in windows of their own.
        return std::iter::once(Task::Make).chain((0..additions).map(Task::Add)).collect();
    }
    match plan.operation {
        Some(Operation::Background | Operation::Style | Operation::Look | Operation::Music) => {
            vec![Task::Restyle]
        }
        Some(Operation::Recolour | Operation::Resize) => (0..additions).map(Task::Alter).collect(),
        Some(Operation::Move) => (0..additions).map(Task::Move).collect(),
        Some(Operation::Duplicate) => (0..additions).map(Task::Repeat).collect(),
        Some(Operation::Replace) => {
            let both = additions.min(removals);
            let pairs = (0..both).map(|i| Task::Replace { removal: i, addition: i });
            let erased = (both..removals).map(Task::Erase);
            pairs.chain(erased).chain((both..additions).map(Task::Add)).collect()
        }
        Some(Operation::Make) => vec![Task::Restyle],
        _ if additions + removals == 0 => vec![Task::Restyle],
        _ => (0..removals).map(Task::Erase).chain((0..additions).map(Task::Add)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use any2pix_llm::plan::{Base, Subject};

    use super::*;

    fn plan(operation: Option<Operation>, additions: usize, removals: usize) -> EditPlan {
        let subject = || Subject { name: "dog".into(), embedding: vec![], reference: None };
        EditPlan {
            base: Some(Base { reference: 0, embedding: vec![] }),
            gen_embedding: vec![],
            caption: String::new(),
            operation,
            additions: (0..additions).map(|_| subject()).collect(),
            removals: (0..removals).map(|_| subject()).collect(),
            place: None,
            look: None,
            text: String::new(),
        }
    }

    #[test]
    fn each_operation_becomes_its_tasks() {
        use Operation::{Add, AddRemove, Look, Move, Remove, Replace};
        let of = |operation, additions, removals| tasks(&plan(operation, additions, removals));
        assert_eq!(of(Some(Add), 2, 0), [Task::Add(0), Task::Add(1)]);
        assert_eq!(of(Some(Remove), 0, 1), [Task::Erase(0)]);
        assert_eq!(of(Some(AddRemove), 1, 1), [Task::Erase(0), Task::Add(0)]);
        assert_eq!(of(Some(Replace), 1, 1), [Task::Replace { removal: 0, addition: 0 }]);
        assert_eq!(of(Some(Look), 1, 0), [Task::Restyle]);
        // Published weights do not say the operation.
        assert_eq!(of(None, 1, 0), [Task::Add(0)]);
        assert_eq!(of(None, 0, 0), [Task::Restyle]);
        assert_eq!(of(Some(Move), 1, 0), [Task::Move(0)]);
        let nothing = EditPlan { base: None, ..plan(Some(Add), 1, 0) };
        assert_eq!(tasks(&nothing), [Task::Make, Task::Add(0)]);
    }
}
