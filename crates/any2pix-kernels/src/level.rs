//! `Level`, `Precision`, `Engine`: which instructions run and how exact products are.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set, from the least to the most capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust.
    Portable,
    /// AVX2 with fused multiply-add and half precision.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX-512 with dot products of bfloat16 pairs.
    Avx512Bf16,
    /// Matrix tiles of bfloat16.
    Amx,
}

impl Level {
    const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The most capable level of this machine.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// The levels that this machine can run.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| *level <= Self::detected())
    }

    /// The fastest level of this machine, which need not be the most capable one.
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Level> = OnceLock::new();
        *FASTEST.get_or_init(|| match Self::detected() {
            Self::Avx512Bf16 if pairs_are_slow() => Self::Avx512,
            level => level,
        })
    }

    /// The level in use: the fastest one, unless another was set by [`Level::limit`].
    pub fn current() -> Self {
        let limit = usize::from(LIMIT.load(Ordering::Relaxed));
        Self::ALL.get(limit).map_or_else(Self::fastest, |limit| Self::detected().min(*limit))
    }

    /// Uses at most this level from now on, in the whole process; it may be higher than the fastest.
    pub fn limit(level: Self) {
        LIMIT.store(level as u8, Ordering::Relaxed);
    }
}

static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !has!("avx2", "fma", "f16c") {
        return Level::Portable;
    }
    if !has!("avx512f", "avx512bw", "avx512dq", "avx512vl") {
        return Level::Avx2;
    }
    if !has!("avx512bf16") {
        return Level::Avx512;
    }
    if crate::gemm::amx::available() { Level::Amx } else { Level::Avx512Bf16 }
}

/// Whether dot products of bfloat16 pairs take longer than two multiply-adds in f32 would: on
/// Intel's cores from Sapphire Rapids on, which compute with half precision, too, and leave
/// bfloat16 to their tiles. Measured on Emerald Rapids without tiles: 172 GFLOP/s against 380.
#[cfg(target_arch = "x86_64")]
fn pairs_are_slow() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    let is_intel = [vendor.ebx, vendor.edx, vendor.ecx] == VENDOR_INTEL;
    is_intel && std::arch::is_x86_feature_detected!("avx512fp16")
}

/// `GenuineIntel`.
#[cfg(target_arch = "x86_64")]
const VENDOR_INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];

#[cfg(not(target_arch = "x86_64"))]
fn pairs_are_slow() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// How exact the products of GEMM, convolution and attention are; sums are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Operands as they are.
    #[default]
    F32,
    /// Operands rounded to bfloat16, where the level multiplies that; at others packed weights are
    /// kept in it and multiplied as f32.
    Bf16,
}

/// A level and a precision: what a kernel needs to know of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Instructions to use; must not exceed [`Level::detected`].
    level: Level,
    /// Precision of products.
    precision: Precision,
}

impl Engine {
    /// The level is lowered to what this machine has.
    pub fn new(level: Level, precision: Precision) -> Self {
        Self { level: level.min(Level::detected()), precision }
    }

    /// The level in use, with the given precision.
    pub fn current(precision: Precision) -> Self {
        Self::new(Level::current(), precision)
    }

    /// Instructions to use.
    pub fn level(self) -> Level {
        self.level
    }

    /// Precision of products.
    pub fn precision(self) -> Precision {
        self.precision
    }
}

/// Compiles a function once for each instruction set and runs the one of `level`, the first
/// argument; the compiler vectorises the body, in which the constant `FUSED` says whether there is
/// multiply-add in one instruction.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($level:ident: Level $(, $arg:ident: $ty:ty)* $(,)?)
     $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        #[inline]
        $vis fn $name($level: $crate::level::Level $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                let level = $level.min($crate::level::Level::detected());
                if level >= $crate::level::Level::Avx512 {
                    // SAFETY: the detected level includes these features.
                    return unsafe { avx512($($arg),*) };
                }
                if level >= $crate::level::Level::Avx2 {
                    // SAFETY: the detected level includes these features.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
