//! Attention forward: blocks of queries meet blocks of keys, softmax as it goes.
//!
//! Keys and values of each head are packed once. A task keeps the scores of its queries for one
//! block of keys, the largest score and the sum of weights so far, and rescales what it has when
//! a larger score comes (Milakov & Gimelshein 2018; Dao et al. 2022).
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::{AttentionShape, sized, store};
use crate::gemm::{Operand, Panels};
use crate::level::{Engine, vectorised};
use crate::math::{exp, map_sum, max, mul_add};
use crate::scratch::{Lanes, Shared, thread_scratch};

/// Queries of a task.
const QUERIES: usize = 96;
/// Keys whose scores exist at a time.
const KEYS: usize = 1024;

#[derive(Default)]
struct Workspace {
    q: Lanes,
    weights: Lanes,
    scores: Lanes,
    sums: Vec<f32>,
}

thread_scratch!(with_workspace, Workspace);
thread_scratch!(with_panels, Lanes);

/// `y = softmax(q·kᵀ·scale)·v`.
pub(super) fn attention(
    engine: Engine,
    shape: &AttentionShape,
    (q, k, v): (&[f32], &[f32], &[f32]),
    y: &mut [f32],
) {
    let by_keys = Panels::new(engine, shape.keys, shape.size);
    let by_values = Panels::new(engine, shape.size, shape.keys);
    let (k_len, v_len) = (by_keys.len().next_multiple_of(16), by_values.len().next_multiple_of(16));
    with_panels(|lanes| {
        let heads = shape.batch * shape.kv_heads;
        let panels = &mut lanes.sized(heads * (k_len + v_len))[..heads * (k_len + v_len)];
        panels.par_chunks_mut(k_len + v_len).enumerate().for_each(|(head, to)| {
            let at = (head / shape.kv_heads, head % shape.kv_heads);
            let (to_k, to_v) = to.split_at_mut(k_len);
            by_keys.pack(Operand::rows_along_k(&shape.kv_head(k, at)), to_k);
            by_values.pack(Operand::rows_across_k(&shape.kv_head(v, at)), to_v);
        });
        let (panels, to) = (&*panels, Shared::new(y));
        let blocks = shape.queries.div_ceil(QUERIES);
        (0..shape.batch * shape.heads * blocks).into_par_iter().with_max_len(1).for_each(|task| {
            let at = (task / (shape.heads * blocks), task / blocks % shape.heads);
            let (b, head) = shape.kv_of(at);
            let packed = &panels[(b * shape.kv_heads + head) * (k_len + v_len)..][..k_len + v_len];
            let (keys, values) = packed.split_at(k_len);
            let first = task % blocks * QUERIES;
            let count = (shape.queries - first).min(QUERIES);
            let block = Queries { engine, shape, at, first, count };
            with_workspace(|space| {
                let rows = block.run(q, (&by_keys, keys), (&by_values, values), space);
                let width = shape.q_width();
                let start = (at.0 * shape.queries + first) * width + at.1 * shape.size;
                // SAFETY: each task has its own queries of its own head.
                unsafe { store(to, rows, shape.size, start, width) };
            });
        });
    });
}

/// A block of queries of one head.
struct Queries<'a> {
    engine: Engine,
    shape: &'a AttentionShape,
    at: (usize, usize),
    first: usize,
    count: usize,
}

impl Queries<'_> {
    /// Returns the attended values, rows of the head's size.
    fn run<'s>(
        &self,
        q: &[f32],
        (by_keys, keys): (&Panels, &[u32]),
        (by_values, values): (&Panels, &[u32]),
        space: &'s mut Workspace,
    ) -> &'s [f32] {
        let Self { engine, shape, at, first, count } = *self;
        let (level, size) = (engine.level(), shape.size);
        let rows = count.next_multiple_of(by_keys.row_multiple());
        let q_lanes = by_keys.lanes();
        let q_rows = space.q.sized(rows * q_lanes);
        let head = (at.0 * shape.queries + first) * shape.q_width() + at.1 * size;
        for (i, to) in q_rows.chunks_exact_mut(q_lanes).take(count).enumerate() {
            by_keys.along(&q[head + i * shape.q_width()..][..size], to);
        }
        let step = KEYS.next_multiple_of(by_values.block_elements());
        let width = by_values.lanes_of(shape.keys.min(step)).max(shape.keys.min(step)) + 16;
        let scores = space.scores.sized(rows * width);
        let weights = space.weights.sized(if by_values.takes_f32() { 0 } else { rows * width });
        let sums = sized(&mut space.sums, count * size);
        let mut states = [State::default(); QUERIES];
        let seen = by_keys.whole_panels(shape.visible(first + count - 1));
        for start in (0..seen).step_by(step) {
            let end = (start + step).min(seen);
            let to = (as_floats(scores), width, false);
            by_keys.multiply((q_rows, q_lanes, count), (keys, 0, q_lanes), start..end, to);
            for (i, row) in as_floats(scores).chunks_exact_mut(width).take(count).enumerate() {
                let visible = shape.visible(first + i).saturating_sub(start);
                let row = &mut row[..end - start];
                let factor = weigh(level, row, visible, shape.scale, &mut states[i]);
                if start > 0 && factor != 1.0 {
                    scale(level, &mut sums[i * size..(i + 1) * size], factor);
                }
                if !by_values.takes_f32() {
                    let lanes = by_values.lanes_of(end - start);
                    by_values.along(row, &mut weights[i * width..i * width + lanes]);
                }
            }
            let lanes = by_values.lanes_of(end - start);
            let from =
                start / by_values.block_elements() * by_values.lanes_of(by_values.block_elements());
            let weights = if by_values.takes_f32() { &*scores } else { &*weights };
            let to = (&mut *sums, size, start > 0);
            by_values.multiply((weights, width, count), (values, from, lanes), 0..size, to);
        }
        for (row, state) in sums.chunks_exact_mut(size).zip(&states) {
            scale(level, row, 1.0 / state.sum);
        }
        sums
    }
}

/// Lanes that hold f32.
fn as_floats(lanes: &mut [u32]) -> &mut [f32] {
    // SAFETY: both are four plain bytes of the same alignment.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len()) }
}

/// What softmax knows of a row so far.
#[derive(Clone, Copy)]
struct State {
    top: f32,
    sum: f32,
}

impl Default for State {
    fn default() -> Self {
        Self { top: f32::NEG_INFINITY, sum: 0.0 }
    }
}

vectorised! {
    /// Turns scores into weights relative to the largest score so far, zero beyond `visible`;
    /// returns what weights of before are to be multiplied with.
    fn weigh(level: Level, row: &mut [f32], visible: usize, scale: f32, state: &mut State) -> f32 {
        let (row, hidden) = row.split_at_mut(visible.min(row.len()));
        hidden.fill(0.0);
        if row.is_empty() {
            return 1.0;
        }
        let top = (max(row) * scale).max(state.top);
        // Where every score is minus infinity, weights shall be NaN as in the definition.
        let factor = if state.top == f32::NEG_INFINITY { 0.0 } else { exp::<FUSED>(state.top - top) };
        let weights = map_sum(row, |x| exp::<FUSED>(mul_add::<FUSED>(x, scale, -top)));
        state.sum = state.sum * factor + weights;
        state.top = top;
        factor
    }
}

vectorised! {
    fn scale(level: Level, row: &mut [f32], factor: f32) {
        for x in row.iter_mut() {
            *x *= factor;
        }
    }
}
