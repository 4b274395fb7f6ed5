//! How exact the products of linear layers, convolutions and attention are.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use any2pix_kernels::{Engine, Level, Precision};

static REDUCED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static SCOPED: Cell<Option<Precision>> = const { Cell::new(None) };
}

/// Sets the precision of the whole process; f32 unless set.
///
/// Activations stay f32 tensors; with [`Precision::Bf16`] the operands of products are rounded
/// on their way into the multipliers and sums stay f32. Machines without such multipliers keep
/// frozen weights in bfloat16, which halves their memory, and compute in f32. A gradient uses the
/// precision of its forward pass. Weights of 16 or fewer inputs or outputs stay exact.
pub fn set_precision(precision: Precision) {
    REDUCED.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// The precision in use on this thread.
pub fn precision() -> Precision {
    let process = if REDUCED.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 };
    SCOPED.with(Cell::get).unwrap_or(process)
}

/// Whether products on this thread really are of rounded operands: asked for, and the machine can.
pub fn multiplies_bf16() -> bool {
    precision() == Precision::Bf16 && Level::current() >= Level::Avx512Bf16
}

/// Another precision on this thread, until dropped.
#[derive(Debug)]
#[must_use = "the precision is that of the scope's life"]
pub struct PrecisionScope(Option<Precision>);

impl PrecisionScope {
    /// Starts the scope.
    pub fn new(precision: Precision) -> Self {
        Self(SCOPED.with(|scoped| scoped.replace(Some(precision))))
    }
}

impl Drop for PrecisionScope {
    fn drop(&mut self) {
        SCOPED.with(|scoped| scoped.set(self.0));
    }
}

/// The engine that operations of this thread use now.
pub(super) fn engine() -> Engine {
    Engine::current(precision())
}

/// The engine for weights between so many inputs and outputs. Where a model meets pixels or
/// latents, rounding shows in the result as it is and products cost next to nothing: exact there.
pub(super) fn engine_between(inputs: usize, outputs: usize) -> Engine {
    /// Channels of pixels and latents; layers inside a model have more.
    const NARROW: usize = 16;
    let exact = inputs.min(outputs) <= NARROW;
    Engine::current(if exact { Precision::F32 } else { precision() })
}
