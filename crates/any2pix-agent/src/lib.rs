//! The one place that knows all three: EditRequest to EditOutcome.
