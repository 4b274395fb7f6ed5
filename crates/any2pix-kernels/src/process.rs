//! Settings of the process that computing on the CPU wants.
#![allow(unsafe_code)]

/// Tells the allocator to keep memory of freed activations, and candle not to run a pool of
/// threads of its own, whose spinning takes the cores from ours.
///
/// Call it first in `main`, before there are other threads. Nothing breaks without it; training
/// is about twice as slow.
pub fn prepare() {
    const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: the caller has not started other threads yet.
        unsafe { std::env::set_var(CANDLE_THREADS, "1") };
    }
    keep_freed_memory();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const M_TRIM_THRESHOLD: i32 = -1;
    const M_MMAP_THRESHOLD: i32 = -3;
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    // Activations are allocated and freed in every layer; getting them from the system each time
    // costs more than filling them.
    // SAFETY: `mallopt` is glibc's and only changes thresholds.
    unsafe {
        mallopt(M_MMAP_THRESHOLD, 32 << 20);
        mallopt(M_TRIM_THRESHOLD, 512 << 20);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}
