//! Scratch memory that threads keep between calls.

/// Lanes on a 64-byte boundary.
#[derive(Default)]
pub(crate) struct Lanes(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

impl Lanes {
    /// All that it holds.
    #[allow(unsafe_code)]
    pub(crate) fn all(&self) -> &[u32] {
        // SAFETY: a line is sixteen lanes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    /// At least `len` lanes, whatever they hold.
    #[allow(unsafe_code)]
    pub(crate) fn sized(&mut self, len: usize) -> &mut [u32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 16]));
        }
        // SAFETY: a line is sixteen lanes without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), lines * 16) }
    }

    /// `len` numbers, whatever they are.
    pub(crate) fn sized_f32(&mut self, len: usize) -> &mut [f32] {
        numbers_mut(&mut self.sized(len)[..len])
    }
}

/// The numbers whose bits are in these lanes.
#[allow(unsafe_code)]
fn numbers_mut(lanes: &mut [u32]) -> &mut [f32] {
    // SAFETY: lanes are as large as numbers and aligned alike, and all their bits are numbers.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len()) }
}

/// The bits of numbers, to be written.
#[allow(unsafe_code)]
pub(crate) fn bits_mut(numbers: &mut [f32]) -> &mut [u32] {
    // SAFETY: as in `numbers_mut`.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// The bits of numbers.
#[allow(unsafe_code)]
pub(crate) fn bits(numbers: &[f32]) -> &[u32] {
    // SAFETY: as in `numbers_mut`.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

/// Keeps one `T` a thread; calls that meet inside each other get a fresh one.
macro_rules! thread_scratch {
    ($name:ident, $kind:ty) => {
        fn $name<R>(work: impl FnOnce(&mut $kind) -> R) -> R {
            thread_local! {
                static KEPT: std::cell::Cell<Option<Box<$kind>>> =
                    const { std::cell::Cell::new(None) };
            }
            let mut scratch = KEPT.with(std::cell::Cell::take).unwrap_or_default();
            let result = work(&mut scratch);
            KEPT.with(|kept| kept.set(Some(scratch)));
            result
        }
    };
}
pub(crate) use thread_scratch;

/// A slice that tasks write at places that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

#[allow(unsafe_code)]
// SAFETY: it is a slice of `Send` values; who makes parts of it answers for their not overlapping.
unsafe impl<T: Send> Sync for Shared<T> {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Where a part starts that is inside the slice.
    pub(crate) fn pointer(&self, at: usize, len: usize) -> *mut T {
        assert!(at + len <= self.len, "part {at}+{len} of {}", self.len);
        self.start.wrapping_add(at)
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// The slice is alive, and no other part that overlaps this one is in use.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn part<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at + len <= self.len, "part {at}+{len} of {}", self.len);
        // SAFETY: inside the slice (checked), alive and unshared (caller).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
