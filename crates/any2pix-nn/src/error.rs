//! `Hint`: an error that knows what to try next.

/// What a reader of an error can do about it; the command line prints `error:`, then each
/// cause, then these as `hint:` lines.
pub trait Hint: std::error::Error {
    /// What to try next, one line each.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}
