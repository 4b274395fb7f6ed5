//! `Kernel`: the micro-kernel an engine uses, its block sizes, calls into the instruction sets.
#![allow(unsafe_code)]

use super::micro_portable;
#[cfg(target_arch = "x86_64")]
use super::{amx, micro_avx2, micro_avx512};
use crate::level::{Engine, Level, Precision, vectorised};

/// A micro-kernel. Its operands are made of 32-bit lanes: one f32, or two bfloat16 that are
/// neighbours along k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// Products and where they go: `rows` of A, `columns` of B.
pub(crate) struct Call {
    /// Lanes along k.
    pub(crate) lanes: usize,
    /// Lanes of A at `row · a_row + lane · a_lane`.
    pub(crate) a: *const u32,
    pub(crate) a_row: usize,
    pub(crate) a_lane: usize,
    /// `lanes` rows of a panel of B, as wide as the columns need whole registers.
    pub(crate) b: *const u32,
    /// Rows of the result, `stride` apart.
    pub(crate) to: *mut f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Adds to what is there.
    pub(crate) add: bool,
    /// Memory that will be read soon: hints, which may point anywhere.
    pub(crate) ahead: [*const u8; 2],
}

impl Call {
    /// Stores sums that lie in rows of `width`.
    ///
    /// # Safety
    /// `to` is good for the rows and columns.
    pub(crate) unsafe fn store(&self, sums: &[f32], width: usize) {
        for (i, sums) in sums.chunks_exact(width).take(self.rows).enumerate() {
            // SAFETY: the caller's promise.
            let to = unsafe {
                std::slice::from_raw_parts_mut(self.to.add(i * self.stride), self.columns)
            };
            if self.add {
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
            } else {
                to.copy_from_slice(&sums[..self.columns]);
            }
        }
    }
}

/// A micro-kernel of one size.
pub(crate) type Micro = unsafe fn(&Call);

impl Kernel {
    pub(crate) fn of(engine: Engine) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let reduced = engine.precision() == Precision::Bf16;
            match engine.level() {
                Level::Amx if reduced => return Self::Amx,
                Level::Avx512Bf16 if reduced => return Self::Avx512Bf16,
                Level::Amx | Level::Avx512Bf16 | Level::Avx512 => return Self::Avx512,
                Level::Avx2 => return Self::Avx2,
                Level::Portable => {}
            }
        }
        let _ = (engine, Level::Portable, Precision::F32);
        Self::Portable
    }

    /// The kernel of f32 whose panels have the same columns, if there is one, else this.
    pub(crate) fn of_singles(self) -> Self {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512,
            kernel => kernel,
        }
    }

    /// The level that the kernel's helpers run at.
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Portable => Level::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            _ => Level::Avx512,
        }
    }

    /// Rows of A in a panel.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Portable => micro_portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => micro_avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => micro_avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::SIDE,
        }
    }

    /// Columns of B in a panel.
    pub(crate) fn columns(self) -> usize {
        match self {
            Self::Portable => micro_portable::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => micro_avx2::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => micro_avx512::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::SIDE,
        }
    }

    /// The last panel is as wide as the columns need multiples of this.
    pub(crate) fn vector(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => micro_avx2::VECTOR,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => micro_avx512::VECTOR,
            _ => self.columns(),
        }
    }

    /// Lanes along k that are multiplied before the sums go back to memory: a panel of B stays in
    /// the first cache.
    pub(crate) fn block_lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => 128,
            _ => 256,
        }
    }

    /// Elements along k in a lane.
    pub(crate) fn depth(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, Self::Avx512Bf16 | Self::Amx) {
            return 2;
        }
        1
    }

    /// Lanes come in multiples of this.
    pub(crate) fn lane_multiple(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            return 16;
        }
        1
    }

    /// Whether panels of A are rows along k, whatever the operand's orientation.
    pub(crate) fn needs_rows_along_k(self) -> bool {
        self.lane_multiple() > 1
    }

    /// Whether it can read rows of A where they lie.
    pub(crate) fn reads_lying(self) -> bool {
        self.depth() == 1 && !self.needs_rows_along_k()
    }

    /// Prepares this thread; the guard lives as long as the kernel is called.
    pub(crate) fn prepare(self) -> Guard {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            // SAFETY: an engine of this level exists only where tiles are available.
            return Guard(Some(unsafe { amx::Tiles::configure() }));
        }
        Guard::default()
    }

    /// `to (+)= A · B` over packed panels; 1 to [`Kernel::rows`] rows, 1 to [`Kernel::columns`]
    /// columns.
    ///
    /// # Safety
    /// The pointers of `call` are good for what it says, the thread is prepared.
    #[inline]
    pub(crate) unsafe fn run(self, call: &Call) {
        debug_assert!((1..=self.rows()).contains(&call.rows));
        debug_assert!((1..=self.columns()).contains(&call.columns));
        let registers = (call.columns - 1) / self.vector();
        let along = usize::from(call.a_lane == 1);
        debug_assert!(along == 1 || call.a_row == 1);
        // SAFETY: the caller's promise; the engine's level was detected.
        unsafe {
            match self {
                Self::Portable => micro_portable::tile(call),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => micro_avx2::TILES[call.rows - 1][registers](call),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => micro_avx512::TILES_F32[along][call.rows - 1][registers](call),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Bf16 => micro_avx512::TILES_BF16[along][call.rows - 1][registers](call),
                #[cfg(target_arch = "x86_64")]
                Self::Amx => amx::tile(call),
            }
        }
    }

    /// Lanes of one row along k; lanes beyond the row's end become zero.
    #[inline]
    pub(crate) fn along(self, from: &[f32], to: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if self.depth() == 2 {
            // SAFETY: kernels of two elements a lane run only where bfloat16 was detected.
            return unsafe { micro_avx512::pairs_along(from, to) };
        }
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_bits();
        }
        if let Some(rest) = to.get_mut(from.len()..) {
            rest.fill(0);
        }
    }

    /// One lane of many columns, in pieces of `width` that lie `panel` apart: `low` is the row
    /// of its first element along k, `high` of the second, if a lane has two.
    #[inline]
    pub(crate) fn across(
        self,
        low: &[f32],
        high: &[f32],
        to: &mut [u32],
        (width, panel): (usize, usize),
    ) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 && width <= micro_avx512::VECTOR {
            // SAFETY: the level was detected.
            return unsafe { micro_avx512::pieces_across(low, to, width, panel) };
        }
        for (i, (low, high)) in low.chunks(width).zip(high.chunks(width)).enumerate() {
            let to = &mut to[i * panel..i * panel + low.len()];
            #[cfg(target_arch = "x86_64")]
            if self.depth() == 2 {
                // SAFETY: kernels of two elements a lane run only where bfloat16 was detected.
                unsafe { micro_avx512::pairs_across(low, high, to) };
                continue;
            }
            let _ = high;
            for (to, from) in to.iter_mut().zip(low) {
                *to = from.to_bits();
            }
        }
    }

    /// Transposes a 16×16 block of lanes.
    #[inline]
    pub(crate) fn transpose16(
        self,
        from: &[u32],
        from_stride: usize,
        to: &mut [u32],
        to_stride: usize,
    ) {
        assert!(from.len() >= 15 * from_stride + 16 && to.len() >= 15 * to_stride + 16);
        #[cfg(target_arch = "x86_64")]
        if self.level() >= Level::Avx512 {
            // SAFETY: lengths were checked above; the level was detected.
            return unsafe {
                micro_avx512::transpose16(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride);
            };
        }
        transpose16(self.level(), from, from_stride, to, to_stride);
    }
}

/// Keeps a thread prepared for a kernel.
#[derive(Default)]
pub(crate) struct Guard(
    #[cfg(target_arch = "x86_64")]
    #[allow(dead_code, reason = "held for its drop")]
    Option<amx::Tiles>,
);

vectorised! {
    fn transpose16(
        level: Level, from: &[u32], from_stride: usize, to: &mut [u32], to_stride: usize,
    ) {
        for i in 0..16 {
            let column = &mut to[i * to_stride..i * to_stride + 16];
            for (j, slot) in column.iter_mut().enumerate() {
                *slot = from[j * from_stride + i];
            }
        }
    }
}
