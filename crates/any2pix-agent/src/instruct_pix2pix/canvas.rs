//! `Canvas`: the size that the published program paints at, and the way there and back.

use any2pix_diffusion::instruct_pix2pix::painted_size;
use any2pix_encoders::resize::{self, Filter};
use image::RgbImage;

use crate::instructany2pix::Compat;

/// From the source's size to the painted one.
pub(super) struct Canvas {
    source: (u32, u32),
    size: (u32, u32),
    compat: Compat,
}

impl Canvas {
    /// The canvas of a source whose longer side is painted with about `resolution` pixels.
    pub(super) fn new(source: (u32, u32), resolution: u32, compat: Compat) -> Self {
        Self { source, size: painted_size(source, resolution), compat }
    }

    /// The source as it is painted over: the published program cuts what the multiples leave
    /// over; otherwise it is squeezed by as much, so that the result fits the source again.
    pub(super) fn take(&self, source: &RgbImage) -> RgbImage {
        match self.compat {
            Compat::Reference => resize::fit(source, self.size, Filter::Lanczos),
            Compat::Repaired => resize::resize(source, self.size, Filter::Lanczos),
        }
    }

    /// The result at the source's size; the published program leaves it as it is painted.
    pub(super) fn give_back(&self, painted: RgbImage) -> RgbImage {
        match self.compat == Compat::Reference || self.source == self.size {
            true => painted,
            false => resize::resize(&painted, self.source, Filter::Lanczos),
        }
    }
}
