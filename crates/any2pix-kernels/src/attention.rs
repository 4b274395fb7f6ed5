//! Attention, heads side by side: self, cross, causal, grouped-query; forward and backward.
//!
//! A task takes a block of queries of one head: scores by a matrix product, softmax, values by
//! another. The scores of a block are all that exists at a time; the backward pass computes them
//! again.
#![allow(unsafe_code)]

mod flash;

use rayon::prelude::*;

use crate::activation::{softmax_row, softmax_row_backward};
use crate::gemm::{Dense, Operand, Output, Size, gemm_here};
use crate::level::Engine;
use crate::scratch::{Shared, thread_scratch};

/// Queries of a task.
const BLOCK: usize = 128;
/// Keys and values that so many queries meet are packed first.
const WORTH_PACKING: usize = 16;

/// `q` `(batch, queries, heads·size)`, `k` and `v` `(batch, keys, kv_heads·size)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys and values of a sequence.
    pub keys: usize,
    /// Heads of the queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub size: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// The last query sees all keys, each one before it one key less.
    pub causal: bool,
}

#[derive(Default)]
struct Workspace {
    scores: Vec<f32>,
    slopes: Vec<f32>,
    rows: Vec<f32>,
    by_k: Vec<f32>,
    by_v: Vec<f32>,
}

thread_scratch!(with_workspace, Workspace);

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn dense_output(data: &mut [f32], stride: usize, accumulate: bool) -> Output<'_> {
    Output { data, stride, bias: None, accumulate }
}

impl AttentionShape {
    fn q_width(&self) -> usize {
        self.heads * self.size
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.size
    }

    /// The rows of one head of one sequence, from row `first`.
    fn q_head<'a>(&self, q: &'a [f32], (b, head): (usize, usize), first: usize) -> Dense<'a> {
        let at = (b * self.queries + first) * self.q_width() + head * self.size;
        Dense::new(&q[at..], self.q_width())
    }

    fn kv_head<'a>(&self, k: &'a [f32], (b, head): (usize, usize)) -> Dense<'a> {
        let at = b * self.keys * self.kv_width() + head * self.size;
        Dense::new(&k[at..], self.kv_width())
    }

    fn kv_of(&self, (b, head): (usize, usize)) -> (usize, usize) {
        (b, head / (self.heads / self.kv_heads))
    }

    /// How many keys a query sees.
    fn visible(&self, query: usize) -> usize {
        if self.causal { (query + 1 + self.keys).saturating_sub(self.queries) } else { self.keys }
    }

    fn blocks(&self) -> usize {
        self.queries.div_ceil(BLOCK)
    }

    fn block(&self, index: usize) -> (usize, usize) {
        let first = index * BLOCK;
        (first, (self.queries - first).min(BLOCK))
    }

    fn is_empty(&self) -> bool {
        self.batch * self.queries * self.heads * self.size == 0
    }

    /// Softmax of the scores of a block of queries: rows of `keys`.
    fn probabilities(
        &self,
        engine: Engine,
        (q, k): (&[f32], &[f32]),
        at: (usize, usize),
        (first, count): (usize, usize),
        scores: &mut [f32],
    ) {
        let keys = self.visible(first + count - 1).min(self.keys);
        let (q, k) = (self.q_head(q, at, first), self.kv_head(k, self.kv_of(at)));
        let size = Size { m: count, n: keys, k: self.size };
        let (q, k) = (Operand::rows_along_k(&q), Operand::rows_along_k(&k));
        gemm_here(engine, size, q, k, dense_output(scores, self.keys, false));
        for (i, row) in scores.chunks_exact_mut(self.keys).enumerate() {
            softmax_row(engine.level(), row, self.visible(first + i), self.scale);
        }
    }
}

/// Copies contiguous rows to a head's place.
///
/// # Safety
/// No other task uses these places.
unsafe fn store(to: Shared<f32>, rows: &[f32], size: usize, at: usize, stride: usize) {
    for (i, row) in rows.chunks_exact(size).enumerate() {
        // SAFETY: the caller answers for the places.
        unsafe { to.part(at + i * stride, size) }.copy_from_slice(row);
    }
}

/// `y = softmax(q·kᵀ·scale)·v`, `y` like `q`.
pub fn attention(
    engine: Engine,
    shape: &AttentionShape,
    (q, k, v): (&[f32], &[f32], &[f32]),
    y: &mut [f32],
) {
    if shape.is_empty() {
        return;
    }
    if shape.keys == 0 {
        return y.fill(0.0);
    }
    if shape.queries * shape.heads / shape.kv_heads >= WORTH_PACKING {
        return flash::attention(engine, shape, (q, k, v), y);
    }
    let to = Shared::new(y);
    let (blocks, size, width) = (shape.blocks(), shape.size, shape.q_width());
    (0..shape.batch * shape.heads * blocks).into_par_iter().for_each(|task| {
        let at = (task / (shape.heads * blocks), task / blocks % shape.heads);
        let (first, count) = shape.block(task % blocks);
        with_workspace(|space| {
            let scores = sized(&mut space.scores, count * shape.keys);
            shape.probabilities(engine, (q, k), at, (first, count), scores);
            let keys = shape.visible(first + count - 1).min(shape.keys);
            let rows = sized(&mut space.rows, count * size);
            let (p, v) = (Dense::new(scores, shape.keys), shape.kv_head(v, shape.kv_of(at)));
            let (p, v) = (Operand::rows_along_k(&p), Operand::rows_across_k(&v));
            let product = Size { m: count, n: size, k: keys };
            gemm_here(engine, product, p, v, dense_output(rows, size, false));
            let start = (at.0 * shape.queries + first) * width + at.1 * size;
            // SAFETY: each task has its own queries of its own head.
            unsafe { store(to, rows, size, start, width) };
        });
    });
}

/// The gradients of [`attention`] by `q`, `k` and `v`.
pub fn attention_backward(
    engine: Engine,
    shape: &AttentionShape,
    (q, k, v, gradient): (&[f32], &[f32], &[f32], &[f32]),
    (by_q, by_k, by_v): (&mut [f32], &mut [f32], &mut [f32]),
) {
    if shape.is_empty() || shape.keys == 0 {
        by_q.fill(0.0);
        by_k.fill(0.0);
        by_v.fill(0.0);
        return;
    }
    let (to_q, to_k, to_v) = (Shared::new(by_q), Shared::new(by_k), Shared::new(by_v));
    let (size, keys) = (shape.size, shape.keys);
    (0..shape.batch * shape.kv_heads).into_par_iter().for_each(|task| {
        let kv = (task / shape.kv_heads, task % shape.kv_heads);
        with_workspace(|space| {
            let by_k = sized(&mut space.by_k, keys * size);
            let by_v = sized(&mut space.by_v, keys * size);
            by_k.fill(0.0);
            by_v.fill(0.0);
            let group = shape.heads / shape.kv_heads;
            for head in kv.1 * group..(kv.1 + 1) * group {
                for block in 0..shape.blocks() {
                    let part = Backward {
                        engine,
                        shape,
                        at: (kv.0, head),
                        block: shape.block(block),
                        inputs: (q, k, v, gradient),
                    };
                    let scores = sized(&mut space.scores, part.block.1 * keys);
                    let slopes = sized(&mut space.slopes, part.block.1 * keys);
                    let rows = sized(&mut space.rows, part.block.1 * size);
                    part.run((scores, slopes), rows, by_k, by_v);
                    let width = shape.q_width();
                    let start = (kv.0 * shape.queries + part.block.0) * width + head * size;
                    // SAFETY: each task has its own heads.
                    unsafe { store(to_q, rows, size, start, width) };
                }
            }
            let start = kv.0 * keys * shape.kv_width() + kv.1 * size;
            // SAFETY: each task has its own heads.
            unsafe {
                store(to_k, by_k, size, start, shape.kv_width());
                store(to_v, by_v, size, start, shape.kv_width());
            }
        });
    });
}

/// The backward pass of a block of queries of one head.
struct Backward<'a> {
    engine: Engine,
    shape: &'a AttentionShape,
    at: (usize, usize),
    block: (usize, usize),
    inputs: (&'a [f32], &'a [f32], &'a [f32], &'a [f32]),
}

impl Backward<'_> {
    /// Writes the gradient by `q` to `by_q`, adds those by `k` and `v`.
    fn run(
        &self,
        (scores, slopes): (&mut [f32], &mut [f32]),
        by_q: &mut [f32],
        by_k: &mut [f32],
        by_v: &mut [f32],
    ) {
        let Self { engine, shape, at, block: (first, count), inputs: (q, k, v, gradient) } = *self;
        let (size, keys) = (shape.size, shape.keys);
        shape.probabilities(engine, (q, k), at, (first, count), scores);
        let q = shape.q_head(q, at, first);
        let gradient = shape.q_head(gradient, at, first);
        let (k, v) = (shape.kv_head(k, shape.kv_of(at)), shape.kv_head(v, shape.kv_of(at)));
        let by_keys = Size { m: keys, n: size, k: count };
        let p = Dense::new(scores, keys);
        gemm_here(
            engine,
            by_keys,
            Operand::rows_across_k(&p),
            Operand::rows_across_k(&gradient),
            dense_output(by_v, size, true),
        );
        gemm_here(
            engine,
            Size { m: count, n: keys, k: size },
            Operand::rows_along_k(&gradient),
            Operand::rows_along_k(&v),
            dense_output(slopes, keys, false),
        );
        let rows = scores.chunks_exact_mut(keys).zip(slopes.chunks_exact(keys));
        for (p, slope) in rows {
            softmax_row_backward(engine.level(), p, slope, shape.scale);
        }
        let slopes = Dense::new(scores, keys);
        gemm_here(
            engine,
            Size { m: count, n: size, k: keys },
            Operand::rows_along_k(&slopes),
            Operand::rows_across_k(&k),
            dense_output(by_q, size, false),
        );
        gemm_here(
            engine,
            by_keys,
            Operand::rows_across_k(&slopes),
            Operand::rows_across_k(&q),
            dense_output(by_k, size, true),
        );
    }
}

#[cfg(test)]
mod tests;
