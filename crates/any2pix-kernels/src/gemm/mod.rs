//! General matrix product over views, dense or virtual, in f32 or rounded to bfloat16.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod kernel;
mod lying;
#[cfg(target_arch = "x86_64")]
mod micro_avx2;
#[cfg(target_arch = "x86_64")]
mod micro_avx512;
mod micro_portable;
mod operand;
mod pack;
mod packed;
mod strip;
mod tiles;

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::level::{Engine, vectorised};
use crate::math::sum2;
use crate::scratch::{Lanes, Shared, thread_scratch};
use kernel::Kernel;
pub use lying::Lying;
pub use operand::{Dense, Matrix, Operand};
use pack::BPanels;
pub use packed::Packed;
pub(crate) use packed::PanelRows;
use packed::pack_all;
pub(crate) use strip::Panels;
pub(crate) use tiles::{Cut, for_each, pieces};
use tiles::{Plan, ROWS_PACKING, Right};

/// Products smaller than this run on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;
/// Elements of the right operand that are packed as a whole for one product.
const MOST_PACKED: usize = 1 << 25;
/// Up to this many rows, packing B would cost more than it saves (decoding, embeddings).
const FEW_ROWS: usize = 3;

thread_scratch!(with_panels, Lanes);

/// `m` rows, `n` columns, `k` products a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Products summed for each element.
    pub k: usize,
}

/// Where the result goes.
#[derive(Debug)]
pub struct Output<'a> {
    /// Rows of the result, `stride` apart.
    pub data: &'a mut [f32],
    /// Distance of rows.
    pub stride: usize,
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Adds to what is there instead of replacing it.
    pub accumulate: bool,
}

/// `output (+)= A · B (+ bias)`.
///
/// # Panics
/// If an operand or the output is smaller than `size` says.
pub fn gemm<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    output: Output<'_>,
) {
    start(engine, size, (a, b), output, runs_in_parallel(size));
}

/// [`gemm`] on the calling thread alone.
pub(crate) fn gemm_here<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    output: Output<'_>,
) {
    start(engine, size, (a, b), output, false);
}

static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Multiplications and additions of all matrix products since the process began.
pub fn operations_so_far() -> u64 {
    OPERATIONS.load(Ordering::Relaxed)
}

pub(crate) fn count(m: usize, n: usize, k: usize) {
    OPERATIONS.fetch_add(2 * (m * n * k) as u64, Ordering::Relaxed);
}

fn start<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    (a, b): (Operand<'_, A>, Operand<'_, B>),
    output: Output<'_>,
    parallel: bool,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    check(size, &output);
    if k == 0 {
        return without_products(size, output);
    }
    if m <= FEW_ROWS && a.is_along() && b.is_along() {
        return few_rows(engine, size, (a.matrix, b.matrix), output, parallel);
    }
    let kernel = Kernel::of(engine);
    let (_, block_lanes) = shape_of_k(kernel, k);
    let layout = BPanels::new(kernel, n, block_lanes);
    // Packed once for all tasks if several would pack the same columns, and if it is not a virtual
    // matrix far larger than what it is made of.
    if m > ROWS_PACKING && n * k <= MOST_PACKED {
        return with_panels(|lanes| {
            let to = lanes.sized(layout.len(k));
            pack_all(kernel, (n, k), b, layout, to, parallel);
            let right = Right::<B>::Packed(to);
            plan(kernel, size, (a, right), layout, output).execute(parallel);
        });
    }
    plan(kernel, size, (a, Right::Loose(b)), layout, output).execute(parallel);
}

/// `output (+)= A · B (+ bias)` of `m` rows, with a right operand that was packed before.
///
/// # Panics
/// If an operand or the output is smaller than its size says.
pub fn gemm_packed<A: Matrix>(m: usize, a: Operand<'_, A>, b: &Packed, output: Output<'_>) {
    let size = Size { m, n: b.n, k: b.k };
    if m == 0 || b.n == 0 {
        return;
    }
    check(size, &output);
    if b.k == 0 {
        return without_products(size, output);
    }
    let plan = plan(b.kernel, size, (a, b.right::<Dense<'_>>()), b.layout, output);
    plan.execute(runs_in_parallel(size));
}

fn plan<'a, A: Matrix, B: Matrix>(
    kernel: Kernel,
    size: Size,
    (a, b): (Operand<'a, A>, Right<'a, B>),
    layout: BPanels,
    output: Output<'a>,
) -> Plan<'a, A, B> {
    let (lanes, block_lanes) = shape_of_k(kernel, size.k);
    Plan {
        kernel,
        size,
        a,
        b,
        lanes,
        block_lanes,
        layout,
        output: Shared::new(output.data),
        stride: output.stride,
        bias: output.bias,
        accumulate: output.accumulate,
    }
}

/// Lanes along k, and those of a block.
fn shape_of_k(kernel: Kernel, k: usize) -> (usize, usize) {
    let lanes = k.div_ceil(kernel.depth()).next_multiple_of(kernel.lane_multiple());
    (lanes, lanes.min(kernel.block_lanes()))
}

fn check(Size { m, n, k }: Size, output: &Output<'_>) {
    assert!(output.stride >= n && output.data.len() >= (m - 1) * output.stride + n);
    assert!(output.bias.is_none_or(|bias| bias.len() >= n));
    count(m, n, k);
}

pub(crate) fn runs_in_parallel(Size { m, n, k }: Size) -> bool {
    m * n * k >= PARALLEL_FROM && rayon::current_num_threads() > 1
}

fn without_products(size: Size, output: Output<'_>) {
    for row in output.data.chunks_mut(output.stride).take(size.m) {
        let row = &mut row[..size.n];
        if !output.accumulate {
            row.fill(0.0);
        }
        for (value, bias) in row.iter_mut().zip(output.bias.unwrap_or_default()) {
            *value += bias;
        }
    }
}

/// A product of few rows: dot products with the rows of B where they lie.
fn few_rows<A: Matrix, B: Matrix>(
    engine: Engine,
    Size { m, n, k }: Size,
    (a, b): (&A, &B),
    output: Output<'_>,
    parallel: bool,
) {
    let (mut a_rows, mut buffer) = (vec![0.0; m * k], vec![0.0; k]);
    for (i, row) in a_rows.chunks_exact_mut(k).enumerate() {
        row.copy_from_slice(a.row(i, 0, &mut buffer));
    }
    let (to, stride, accumulate) = (Shared::new(output.data), output.stride, output.accumulate);
    let columns = (PARALLEL_FROM / 8 / k).clamp(8, n.max(8));
    for_each(parallel, n.div_ceil(columns), |task| {
        let mut buffer = vec![0.0; k];
        for j in task * columns..((task + 1) * columns).min(n) {
            let b_row = b.row(j, 0, &mut buffer);
            for (i, a_row) in a_rows.chunks_exact(k).enumerate() {
                let sum = dot(engine.level(), a_row, b_row);
                let sum = output.bias.map_or(sum, |bias| sum + bias[j]);
                // SAFETY: each task has its own columns.
                let to = unsafe { to.part(i * stride + j, 1) };
                to[0] = if accumulate { to[0] + sum } else { sum };
            }
        }
    });
}

vectorised! {
    fn dot(level: Level, a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }
}

/// Whether left operands whose rows run along k are read where they lie.
pub(crate) fn reads_lying(engine: Engine) -> bool {
    Kernel::of(engine).reads_lying()
}

/// All of `x` as pairs of bfloat16, if the engine multiplies those.
pub(crate) fn rounded_pairs(engine: Engine, x: &[f32]) -> Option<Vec<u32>> {
    rounded_for(Kernel::of(engine), x)
}

fn rounded_for(kernel: Kernel, x: &[f32]) -> Option<Vec<u32>> {
    const CHUNK: usize = 1 << 13;
    if kernel.depth() != 2 {
        return None;
    }
    let mut pairs = vec![0; x.len().div_ceil(2)];
    pairs
        .par_chunks_mut(CHUNK)
        .zip(x.par_chunks(2 * CHUNK))
        .for_each(|(to, from)| kernel.along(from, to));
    Some(pairs)
}

#[cfg(test)]
mod tests;
