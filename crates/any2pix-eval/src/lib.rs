//! Suites, metrics, harness and report: numbers about edits.
