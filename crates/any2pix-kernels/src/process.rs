//! Settings of the process that computing on the CPU wants; made before `main`.
#![allow(unsafe_code)]

/// Keeps candle from running a pool of threads of its own, whose spinning takes the cores from
/// ours, and the allocator from giving memory of freed activations back to the system.
///
/// Where programs can have code before `main` (ELF), this has run by itself. Elsewhere call it
/// first in `main`, before there are other threads. Nothing breaks without it; training is about
/// twice as slow.
pub fn prepare() {
    const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: there are no other threads yet: before `main` by construction, later by the
        // caller's promise.
        unsafe { std::env::set_var(CANDLE_THREADS, "1") };
    }
    keep_freed_memory();
}

#[cfg(target_os = "linux")]
extern "C" fn before_main() {
    prepare();
}

// SAFETY: entries of this section are called without arguments that the callee must read, before
// `main`, on the only thread.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const M_TRIM_THRESHOLD: i32 = -1;
    const M_MMAP_MAX: i32 = -4;
    const M_ARENA_MAX: i32 = -8;
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    // Activations are allocated and freed in every layer; getting them from the system each time
    // costs more than filling them.
    // SAFETY: `mallopt` is glibc's and only changes limits.
    unsafe {
        mallopt(M_MMAP_MAX, 0);
        mallopt(M_TRIM_THRESHOLD, 512 << 20);
        // Arenas of other threads are small mappings that come and go whatever the thresholds say.
        mallopt(M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the system: when a large model is dropped and another comes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn release_memory() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> i32;
    }
    // SAFETY: `malloc_trim` is glibc's and only touches memory that nobody holds.
    unsafe {
        malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

/// Gives freed memory back to the system: when a large model is dropped and another comes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_memory() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn it_has_run_before_main() {
        assert!(std::env::var_os("CANDLE_NUM_THREADS").is_some());
    }
}
