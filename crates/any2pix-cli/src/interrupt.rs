//! Ctrl-C and SIGTERM: the first asks the running command to stop, the second ends the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::diagnostics::{Exit, Failure};

/// What the handlers see and set.
#[derive(Default)]
struct Watch {
    /// The exit code of the last signal; 0 before the first.
    stop: Arc<AtomicUsize>,
    /// The next of these signals ends the process.
    ends: [Arc<AtomicBool>; 2],
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Starts to listen.
pub(crate) fn watch() -> Result<(), Failure> {
    let Watch { stop, ends } = WATCH.get_or_init(Watch::default);
    let signals = [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)];
    for ((signal, exit), ends) in signals.into_iter().zip(ends) {
        // Order matters: the conditional shutdown sees the state that the signal before it left.
        flag::register_conditional_shutdown(signal, exit as i32, ends.clone())
            .and_then(|_| flag::register(signal, ends.clone()))
            .and_then(|_| flag::register_usize(signal, stop.clone(), exit as usize))
            .map_err(|e| Failure::internal(format!("cannot listen for signals: {e}")))?;
    }
    Ok(())
}

/// The exit code that a received signal asks for.
pub(crate) fn requested() -> Option<Exit> {
    match WATCH.get().map_or(0, |watch| watch.stop.load(Ordering::Relaxed)) {
        0 => None,
        code if code == Exit::Terminated as usize => Some(Exit::Terminated),
        _ => Some(Exit::Interrupted),
    }
}

fn set(ends: bool) {
    if let Some(watch) = WATCH.get() {
        watch.stop.store(0, Ordering::Relaxed);
        watch.ends.iter().for_each(|flag| flag.store(ends, Ordering::Relaxed));
    }
}

/// Work begins that a first signal stops: signals of earlier work are forgotten.
pub(crate) fn begin() {
    set(false);
}

/// Nothing is under way that would have to be stopped: the first signal ends the process.
pub(crate) fn one_is_enough() {
    set(true);
}

/// A line is being read from the terminal.
static READING: AtomicBool = AtomicBool::new(false);

/// From now on a SIGTERM that comes while the terminal is read puts the terminal back to what it
/// is now, and ends the process: the line editor would go on waiting, with its own settings.
#[cfg(unix)]
pub(crate) fn guard_terminal() -> Result<(), Failure> {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let failed = |e: std::io::Error| Failure::internal(format!("cannot watch the terminal: {e}"));
    let before = tcgetattr(std::io::stdin()).map_err(|e| failed(e.into()))?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM]).map_err(failed)?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if READING.load(Ordering::Relaxed) {
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
                std::process::exit(Exit::Terminated as i32);
            }
        }
    });
    Ok(())
}

/// Terminals of other systems know no SIGTERM.
#[cfg(not(unix))]
pub(crate) fn guard_terminal() -> Result<(), Failure> {
    Ok(())
}

/// Does `body`, which reads a line from the terminal.
pub(crate) fn while_reading<T>(body: impl FnOnce() -> T) -> T {
    READING.store(true, Ordering::Relaxed);
    let result = body();
    READING.store(false, Ordering::Relaxed);
    result
}
