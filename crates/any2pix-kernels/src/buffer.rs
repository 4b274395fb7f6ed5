//! Results that all threads begin: fresh memory is slow to touch, and one thread that clears it
//! keeps the others waiting.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Elements that a thread clears at a time, and writes while they are in its first cache.
pub const CHUNK: usize = 1 << 12;
/// Elements that are worth a task.
const TASK: usize = 1 << 14;

/// Elements of the rows of `width` that make up a chunk, at least one row.
pub fn rows_of_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

/// `len` zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    if len <= CHUNK {
        return vec![0.0; len];
    }
    in_chunks(len, CHUNK, |_, _| {})
}

/// A vector that `work` writes, chunk by chunk and on all threads: it is given where its chunk
/// starts, and the chunk, which holds zeros.
pub fn in_chunks(
    len: usize,
    chunk: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let mut result: Vec<f32> = Vec::with_capacity(len);
    let fresh = &mut result.spare_capacity_mut()[..len];
    let begin = |(index, fresh): (usize, &mut [MaybeUninit<f32>])| {
        for slot in fresh.iter_mut() {
            slot.write(0.0);
        }
        // SAFETY: every element was just written.
        let chunk_of_result = unsafe {
            std::slice::from_raw_parts_mut(fresh.as_mut_ptr().cast::<f32>(), fresh.len())
        };
        work(index * chunk, chunk_of_result);
    };
    let chunks = fresh.par_chunks_mut(chunk.max(1)).enumerate();
    chunks.with_min_len(TASK.div_ceil(chunk.max(1))).for_each(begin);
    // SAFETY: the chunks are all of the first `len` elements, and each was written.
    unsafe { result.set_len(len) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_there_and_chunks_know_their_place() {
        for len in [0, 1, 7, CHUNK, CHUNK + 1, 5 * CHUNK + 3] {
            assert!(zeros(len) == vec![0.0; len]);
            let numbers = in_chunks(len, 1000, |start, chunk| {
                assert!(chunk.iter().all(|x| *x == 0.0));
                chunk.iter_mut().enumerate().for_each(|(i, x)| *x = (start + i) as f32);
            });
            assert!(
                numbers.iter().enumerate().all(|(i, x)| *x == i as f32) && numbers.len() == len
            );
        }
    }
}
