//! Named intermediates: a model offers them with [`tap`], a test collects them with [`capture`].

use std::cell::RefCell;

use candle_core::Tensor;

thread_local! {
    static RECORDER: RefCell<Option<Vec<(String, Tensor)>>> = const { RefCell::new(None) };
}

/// Offers an intermediate under `name`; free unless this thread is inside [`capture`].
pub fn tap(name: &str, tensor: &Tensor) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(taps) = recorder {
            taps.push((name.to_string(), tensor.clone()));
        }
    });
}

/// Runs `body` on this thread and returns its result with every intermediate it offered.
pub fn capture<T>(body: impl FnOnce() -> T) -> (T, Vec<(String, Tensor)>) {
    let outer = RECORDER.replace(Some(Vec::new()));
    let result = body();
    let taps = RECORDER.replace(outer).unwrap_or_default();
    (result, taps)
}
