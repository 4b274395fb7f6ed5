//! Results that all threads begin and that nothing writes twice: fresh memory is slow to touch.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Elements of a chunk, which are worth a task.
pub(crate) const CHUNK: usize = 1 << 14;

/// A part of a result to which nothing was written yet.
pub(crate) type Fresh = [MaybeUninit<f32>];

/// Elements of the rows of `width` that make up a chunk, at least one row.
pub(crate) fn rows_of_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

/// `len` zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    if len <= CHUNK {
        return vec![0.0; len];
    }
    let clear = |_, fresh: &mut Fresh| {
        for slot in fresh {
            slot.write(0.0);
        }
    };
    // SAFETY: every slot is written.
    unsafe { in_chunks(len, CHUNK, clear) }
}

/// A vector that `work` writes, chunk by chunk and on all threads: it is given where its chunk
/// starts, and the chunk.
///
/// # Safety
/// `work` writes every element of the chunk that it is given.
pub(crate) unsafe fn in_chunks(
    len: usize,
    chunk: usize,
    work: impl Fn(usize, &mut Fresh) + Sync + Send,
) -> Vec<f32> {
    let mut result: Vec<f32> = Vec::with_capacity(len);
    let chunks = result.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1)).enumerate();
    chunks
        .with_min_len(CHUNK.div_ceil(chunk.max(1)))
        .for_each(|(index, fresh)| work(index * chunk, fresh));
    // SAFETY: the chunks are all of the first `len` elements, and the caller promises that each
    // was written.
    unsafe { result.set_len(len) };
    result
}

/// Writes `values` and gives what was written.
///
/// # Safety
/// There are as many values as slots.
#[inline(always)]
pub(crate) unsafe fn fill(fresh: &mut Fresh, values: impl Iterator<Item = f32>) -> &mut [f32] {
    for (slot, value) in fresh.iter_mut().zip(values) {
        slot.write(value);
    }
    // SAFETY: the caller promises a value for each slot.
    unsafe { fresh.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_there_and_chunks_know_their_place() {
        for len in [0, 1, 7, CHUNK, CHUNK + 1, 5 * CHUNK + 3] {
            assert!(zeros(len) == vec![0.0; len]);
            let count = |start: usize, fresh: &mut Fresh| {
                let numbers = (start..start + fresh.len()).map(|i| i as f32);
                // SAFETY: as many numbers as slots.
                unsafe { fill(fresh, numbers) };
            };
            // SAFETY: `count` writes every slot.
            let numbers = unsafe { in_chunks(len, 1000, count) };
            assert!(numbers.len() == len);
            assert!(numbers.iter().enumerate().all(|(i, x)| *x == i as f32));
        }
    }
}
