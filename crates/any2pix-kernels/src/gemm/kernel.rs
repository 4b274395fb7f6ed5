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

/// The largest product of rows and columns of a kernel.
pub(crate) const MAX_TILE: usize = 32 * 32;

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

    /// Prepares this thread; the guard lives as long as the kernel is called.
    pub(crate) fn prepare(self) -> Guard {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            // SAFETY: an engine of this level exists only where tiles are available.
            return Guard(Some(unsafe { amx::Tiles::configure() }));
        }
        Guard::default()
    }

    /// `tile = A · B` over packed panels.
    #[inline]
    pub(crate) fn run(
        self,
        lanes: usize,
        a: &[u32],
        (a_row, a_lane): (usize, usize),
        b: &[u32],
        tile: &mut [f32; MAX_TILE],
    ) {
        let last = (self.rows() - 1) * a_row + (lanes - 1) * a_lane;
        assert!(a.len() > last && b.len() >= lanes * self.columns(), "panel too short");
        #[cfg(target_arch = "x86_64")]
        let (pa, pb, pt) = (a.as_ptr(), b.as_ptr(), tile.as_mut_ptr());
        match self {
            Self::Portable => micro_portable::kernel_f32(lanes, a, (a_row, a_lane), b, tile),
            // SAFETY (these four): lengths were checked above; the engine's level was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { micro_avx2::kernel_f32(lanes, pa, a_row, a_lane, pb, pt) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { micro_avx512::kernel_f32(lanes, pa, a_row, a_lane, pb, pt) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe {
                micro_avx512::kernel_bf16(lanes, pa, a_row, a_lane, pb, pt);
            },
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { amx::kernel(lanes, (pa, a_row), pb, (pt, amx::SIDE), false) },
        }
    }

    /// Whether a full tile can be summed where it goes, without a merge.
    pub(crate) fn sums_in_place(self) -> bool {
        self.lane_multiple() > 1
    }

    /// `to (+)= A · B` for a full tile of a kernel that [`Kernel::sums_in_place`].
    ///
    /// # Safety
    /// `to` has room for a tile at this stride.
    #[inline]
    pub(crate) unsafe fn run_in_place(
        self,
        lanes: usize,
        (a, a_row): (&[u32], usize),
        b: &[u32],
        (to, stride): (*mut f32, usize),
        accumulate: bool,
    ) {
        let last = (self.rows() - 1) * a_row + lanes - 1;
        assert!(a.len() > last && b.len() >= lanes * self.columns() && self.sums_in_place());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: lengths were checked above, room is the caller's; tiles are configured by
        // `prepare`, which every task calls.
        unsafe {
            amx::kernel(lanes, (a.as_ptr(), a_row), b.as_ptr(), (to, stride), accumulate);
        }
        let _ = (to, stride, accumulate);
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
