//! `Prefetch`: batches made on other threads while the model computes, the same on any number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use any2pix_nn::Generator;

use crate::{Result, TrainError};

type Make<B> = dyn Fn(u64, &mut Generator) -> Result<B> + Send + Sync;

/// Batches by step. Batch `n` is made from a generator forked by the seed and `n`, whoever makes
/// it and whenever, so that a resumed run gets the batches of an uninterrupted one.
pub struct Prefetch<B> {
    generator: Generator,
    make: Arc<Make<B>>,
    threads: usize,
    ahead: usize,
    running: Option<Running<B>>,
}

struct Running<B> {
    next: u64,
    early: BTreeMap<u64, Result<B>>,
    batches: Option<Receiver<(u64, Result<B>)>>,
    workers: Vec<JoinHandle<()>>,
}

impl<B> Drop for Running<B> {
    fn drop(&mut self) {
        // Without a receiver every worker's next send fails, and it returns.
        self.batches = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl<B: Send + 'static> Prefetch<B> {
    /// Batches from `make`, `ahead` of them kept ready by `threads` threads (at least one each).
    pub fn new(
        seed: u64,
        threads: usize,
        ahead: usize,
        make: impl Fn(u64, &mut Generator) -> Result<B> + Send + Sync + 'static,
    ) -> Self {
        let (threads, ahead) = (threads.max(1), ahead.max(1));
        let generator = Generator::new(seed).fork("prefetch");
        Self { generator, make: Arc::new(make), threads, ahead, running: None }
    }

    /// The batch of `step`; asking for any but the next one begins anew there.
    pub fn batch(&mut self, step: u64) -> Result<B> {
        let mut running = match self.running.take() {
            Some(running) if running.next == step => running,
            _ => self.start(step),
        };
        let batch = loop {
            if let Some(batch) = running.early.remove(&step) {
                break batch;
            }
            match running.batches.as_ref().and_then(|batches| batches.recv().ok()) {
                Some((number, batch)) => running.early.insert(number, batch),
                None => {
                    let what = format!("no batch for step {step}: the thread that made it is gone");
                    return Err(TrainError::Data { what, hint: "this is a defect".into() });
                }
            };
        };
        running.next = step + 1;
        self.running = Some(running);
        batch
    }

    fn start(&self, step: u64) -> Running<B> {
        let (sender, batches) = sync_channel(self.ahead);
        let counter = Arc::new(AtomicU64::new(step));
        let workers = (0..self.threads)
            .map(|_| {
                let (sender, counter) = (sender.clone(), counter.clone());
                let (generator, make) = (self.generator.clone(), self.make.clone());
                std::thread::spawn(move || work(&generator, &*make, &counter, &sender))
            })
            .collect();
        Running { next: step, early: BTreeMap::new(), batches: Some(batches), workers }
    }
}

fn work<B>(
    generator: &Generator,
    make: &Make<B>,
    counter: &AtomicU64,
    sender: &SyncSender<(u64, Result<B>)>,
) {
    loop {
        let step = counter.fetch_add(1, Ordering::Relaxed);
        let mut generator = generator.fork(&format!("batch {step}"));
        if sender.send((step, make(step, &mut generator))).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(threads: usize, steps: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
        let mut batches = Prefetch::new(7, threads, 2, |step, generator| {
            // Some batches take longer, so that they are ready out of order.
            std::thread::sleep(std::time::Duration::from_millis(3 * (step % 3)));
            Ok((step, generator.next_u64()))
        });
        steps.map(|step| batches.batch(step).unwrap()).collect()
    }

    #[test]
    fn batches_depend_on_seed_and_step_alone() {
        let all = words(1, 0..12);
        assert_eq!(all, words(3, 0..12));
        assert_eq!(all[5..], words(2, 5..12));
        let jumping: Vec<_> = [3, 4, 0, 11].into_iter().map(|step| all[step]).collect();
        assert_eq!(jumping, words(2, [3, 4, 0, 11].into_iter()));
    }

    #[test]
    fn an_error_reaches_the_step_it_belongs_to() {
        let mut batches = Prefetch::new(0, 2, 2, |step, _| match step {
            2 => Err(TrainError::Data { what: "two".into(), hint: String::new() }),
            _ => Ok(step),
        });
        assert_eq!(batches.batch(0).unwrap(), 0);
        assert_eq!(batches.batch(1).unwrap(), 1);
        assert_eq!(batches.batch(2).unwrap_err().to_string(), "two");
        assert_eq!(batches.batch(3).unwrap(), 3);
    }
}
