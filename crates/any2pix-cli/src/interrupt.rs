//! Ctrl-C and SIGTERM: the first asks the running command to stop, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::diagnostics::{Exit, Failure};

static STOP: std::sync::OnceLock<Arc<AtomicUsize>> = std::sync::OnceLock::new();

/// Starts to listen.
pub(crate) fn watch() -> Result<(), Failure> {
    let stop = STOP.get_or_init(Arc::default);
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        // Order matters: the conditional shutdown sees the state that the signal before it left.
        let second = Arc::new(AtomicBool::new(false));
        flag::register_conditional_shutdown(signal, exit as i32, second.clone())
            .and_then(|_| flag::register(signal, second))
            .and_then(|_| flag::register_usize(signal, stop.clone(), exit as usize))
            .map_err(|e| Failure::internal(format!("cannot listen for signals: {e}")))?;
    }
    Ok(())
}

/// The exit code that a received signal asks for.
pub(crate) fn requested() -> Option<Exit> {
    match STOP.get().map_or(0, |stop| stop.load(Ordering::Relaxed)) {
        0 => None,
        code if code == Exit::Terminated as usize => Some(Exit::Terminated),
        _ => Some(Exit::Interrupted),
    }
}
