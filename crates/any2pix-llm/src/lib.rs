//! Intention: an instruction and embeddings to an EditPlan.
