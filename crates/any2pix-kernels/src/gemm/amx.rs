//! Matrix tiles (AMX): permission, configuration, the 32×32 micro-kernel.
#![allow(unsafe_code)]

use std::arch::asm;

use super::kernel::Call;

/// Rows and columns of one product.
pub(crate) const SIDE: usize = 32;

/// Whether this processor has bfloat16 tiles and the kernel lets this process use them.
pub(crate) fn available() -> bool {
    has_instructions() && permitted()
}

fn has_instructions() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    let (bf16, tile) = (leaf.edx >> 22 & 1, leaf.edx >> 24 & 1);
    bf16 == 1 && tile == 1
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let status: i64;
    // SAFETY: the system call changes nothing but the process's permission to use tiles.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles are configured on this thread while this lives.
pub(crate) struct Tiles(());

impl Tiles {
    /// All eight tiles as 16 rows of 64 bytes.
    ///
    /// # Safety
    /// [`available`] returned true.
    pub(crate) unsafe fn configure() -> Self {
        let mut config = TileConfig {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: the instruction exists (caller) and reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` exists only where the instructions do.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Multiplies tiles that are already there, four sums in turn; returns how many operations it did.
///
/// # Safety
/// [`available`] returned true.
pub(crate) unsafe fn spin(repeats: u64) -> u64 {
    const OPERATIONS: u64 = 4 * 2 * 16 * 16 * 32;
    // SAFETY: tiles are configured here, and no memory is touched.
    unsafe {
        let _tiles = Tiles::configure();
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) repeats => _,
            options(nostack, nomem),
        );
    }
    repeats * OPERATIONS
}

/// `to (+)= A · B`; where less than a whole tile is wanted, it is summed beside its place first.
///
/// # Safety
/// Tiles are configured; the pointers of `call` are good for what it says, and A and B have whole
/// panels.
pub(crate) unsafe fn tile(call: &Call) {
    let (a, b) = ((call.a, call.a_row), call.b);
    // SAFETY: the caller's promise.
    unsafe {
        if call.rows == SIDE && call.columns == SIDE {
            return kernel(call.lanes, a, b, (call.to, call.stride), call.add);
        }
        let mut sums = [0f32; SIDE * SIDE];
        kernel(call.lanes, a, b, (sums.as_mut_ptr(), SIDE), false);
        call.store(&sums, SIDE);
    }
}

/// `to (+)= A · B` for `lanes` (a multiple of 16, at least 16) pairs of bfloat16 along k.
///
/// # Safety
/// Tiles are configured; `a` holds 32 rows of `lanes` at `a_stride` lanes; `b` holds `lanes` rows
/// of 32 lanes; `to` has room for 32 rows of 32 at `to_stride`.
unsafe fn kernel(
    lanes: usize,
    (a, a_stride): (*const u32, usize),
    b: *const u32,
    (to, to_stride): (*mut f32, usize),
    accumulate: bool,
) {
    // Tiles keep their values from one of these blocks to the next: the compiler never uses them.
    // SAFETY: reads and writes stay in the ranges that the caller promises.
    unsafe {
        if accumulate {
            asm!(
                "tileloadd tmm0, [{c0} + {sc}]",
                "tileloadd tmm1, [{c0} + {sc} + 64]",
                "tileloadd tmm2, [{c1} + {sc}]",
                "tileloadd tmm3, [{c1} + {sc} + 64]",
                c0 = in(reg) to,
                c1 = in(reg) to.add(16 * to_stride),
                sc = in(reg) to_stride * 4,
                options(nostack, readonly),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            );
        }
        asm!(
            "2:",
            "tileloadd tmm4, [{a0} + {sa}]",
            "tileloadd tmm6, [{b} + {sb}]",
            "tileloadd tmm7, [{b} + {sb} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {sa}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            a0 = inout(reg) a => _,
            a1 = inout(reg) a.add(16 * a_stride) => _,
            b = inout(reg) b => _,
            n = inout(reg) lanes / 16 => _,
            sa = in(reg) a_stride * 4,
            sb = in(reg) SIDE * 4,
            options(nostack, readonly),
        );
        asm!(
            "tilestored [{c0} + {sc}], tmm0",
            "tilestored [{c0} + {sc} + 64], tmm1",
            "tilestored [{c1} + {sc}], tmm2",
            "tilestored [{c1} + {sc} + 64], tmm3",
            c0 = in(reg) to,
            c1 = in(reg) to.add(16 * to_stride),
            sc = in(reg) to_stride * 4,
            options(nostack),
        );
    }
}
