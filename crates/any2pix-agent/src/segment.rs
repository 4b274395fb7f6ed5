//! Which pixels of a window belong to a thing, when a coarse mask says about where it is.
//!
//! The mask is right about the place and wrong about the outline. The picture knows the outline:
//! the thing's colours are not those around it, and it ends at an edge. A random walk with
//! priors (Grady, "Multilabel Random Walker Image Segmentation Using Prior Models", CVPR 2005)
//! brings the three together: every pixel takes what the mask and the colours say of it, and
//! agrees with its neighbours the more, the more alike they look.

use crate::planes::{Pixels, Plane};

/// How often the colours are learned from what belongs so far.
const ROUNDS: usize = 3;
/// Sweeps over all pixels in a round; with over-relaxation the walk has settled by then.
const SWEEPS: usize = 60;
const OVER_RELAXATION: f32 = 1.7;
/// How fast neighbours cease to agree with the squared difference of their colours.
const CONTRAST: f32 = 100.0;
/// No edge is closed entirely: a pixel without an opinion takes its neighbours'.
const LEAKAGE: f32 = 1e-3;
/// What a pixel's own opinion weighs, beside a neighbour that looks the same.
const OPINION: f32 = 0.08;
/// Farther than this from where the mask says a little, nothing belongs.
const REACH: usize = 8;
const A_LITTLE: f32 = 0.25;
/// Bins of a channel in a histogram of colours.
const BINS: usize = 16;
/// The share of a colour that was not seen.
const UNSEEN: f32 = 2e-5;
/// Neither the mask nor a colour is surer than this, as the logarithm of odds.
const SUREST: f32 = 4.0;

/// How much each pixel of `view` belongs to the thing that `mask` is about, 0 to 1; both have the
/// same size.
pub(crate) fn belonging(view: &Pixels, mask: &Plane) -> Plane {
    let walk = Walk::new(view);
    let bins = bins(view);
    let near = mask.dilated(REACH);
    let odds = mask.map(|share| logit(share).clamp(-SUREST, SUREST));
    let mut belongs = mask.clone();
    for _ in 0..ROUNDS {
        let inside = histogram(&bins, &belongs.map(|share| share * share));
        let outside = histogram(&bins, &belongs.map(|share| (1.0 - share) * (1.0 - share)));
        let opinions: Vec<Opinion> = (0..bins.len())
            .map(|i| match near.values[i] > A_LITTLE {
                true => Opinion::of(odds.values[i] + rather(&inside, &outside, bins[i])),
                false => Opinion { belongs: 0.0, weight: 1.0 },
            })
            .collect();
        belongs = walk.settled(&opinions);
    }
    belongs
}

/// What a pixel would say without its neighbours.
struct Opinion {
    belongs: f32,
    weight: f32,
}

impl Opinion {
    fn of(odds: f32) -> Self {
        let belongs = 1.0 / (1.0 + libm::expf(-odds));
        // who does not know may be told
        let weight = OPINION * ((2.0 * belongs - 1.0).abs() + 0.05);
        Self { belongs, weight }
    }
}

fn logit(share: f32) -> f32 {
    let share = share.clamp(0.02, 0.98);
    libm::logf(share / (1.0 - share))
}

/// The logarithm of how much more of the inside than of the outside has a colour.
fn rather(inside: &[f32], outside: &[f32], bin: usize) -> f32 {
    let odds = (inside[bin] + UNSEEN) / (outside[bin] + UNSEEN);
    libm::logf(odds).clamp(-SUREST, SUREST)
}

/// The histogram's bin of every pixel.
fn bins(view: &Pixels) -> Vec<usize> {
    let bin = |value: f32| ((value * BINS as f32) as usize).min(BINS - 1);
    let [r, g, b] = &view.0;
    let colours = r.values.iter().zip(&g.values).zip(&b.values);
    colours.map(|((r, g), b)| (bin(*r) * BINS + bin(*g)) * BINS + bin(*b)).collect()
}

/// The share of every colour, smoothed over neighbouring bins, when pixels count by `weight`.
fn histogram(bins: &[usize], weight: &Plane) -> Vec<f32> {
    let mut shares = vec![0.0f32; BINS * BINS * BINS];
    for (bin, weight) in bins.iter().zip(&weight.values) {
        shares[*bin] += weight;
    }
    let total: f32 = weight.values.iter().sum::<f32>().max(1e-6);
    for stride in [1, BINS, BINS * BINS] {
        let before = shares.clone();
        for (bin, share) in shares.iter_mut().enumerate() {
            let at = bin / stride % BINS;
            let lower = if at > 0 { before[bin - stride] } else { 0.0 };
            let upper = if at + 1 < BINS { before[bin + stride] } else { 0.0 };
            *share = (lower + 2.0 * before[bin] + upper) / 4.0;
        }
    }
    shares.iter().map(|share| share / total).collect()
}

/// How much every pixel agrees with the next one to the right and below.
struct Walk {
    width: usize,
    height: usize,
    right: Vec<f32>,
    below: Vec<f32>,
}

impl Walk {
    fn new(view: &Pixels) -> Self {
        let (width, height) = (view.0[0].width, view.0[0].height);
        let alike = |a: usize, b: usize| {
            let square = |plane: &Plane| (plane.values[a] - plane.values[b]).powi(2);
            libm::expf(-CONTRAST * view.0.iter().map(square).sum::<f32>()) + LEAKAGE
        };
        let edges = |is_inside: &dyn Fn(usize) -> bool, step: usize| {
            let edge = |i: usize| if is_inside(i) { alike(i, i + step) } else { 0.0 };
            (0..width * height).map(edge).collect()
        };
        let right = edges(&|i| i % width + 1 < width, 1);
        let below = edges(&|i| i + width < width * height, width);
        Self { width, height, right, below }
    }

    /// What all agree on: Gauss–Seidel over the pixels of one colour of a chessboard, then over
    /// those of the other.
    fn settled(&self, opinions: &[Opinion]) -> Plane {
        let mut values: Vec<f32> = opinions.iter().map(|opinion| opinion.belongs).collect();
        for _ in 0..SWEEPS {
            for colour in 0..2 {
                for y in 0..self.height {
                    for x in ((y + colour) % 2..self.width).step_by(2) {
                        let i = y * self.width + x;
                        let agreed = self.agreed(i, (x, y), &values, &opinions[i]);
                        values[i] += OVER_RELAXATION * (agreed - values[i]);
                    }
                }
            }
        }
        values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        Plane { width: self.width, height: self.height, values }
    }

    /// The mean of a pixel's opinion and its neighbours, by how much they agree.
    fn agreed(&self, i: usize, (x, y): (usize, usize), values: &[f32], own: &Opinion) -> f32 {
        let (mut sum, mut weight) = (own.weight * own.belongs, own.weight);
        let mut add = |edge: f32, neighbour: usize| {
            sum += edge * values[neighbour];
            weight += edge;
        };
        if x > 0 {
            add(self.right[i - 1], i - 1);
        }
        if x + 1 < self.width {
            add(self.right[i], i + 1);
        }
        if y > 0 {
            add(self.below[i - self.width], i - self.width);
        }
        if y + 1 < self.height {
            add(self.below[i], i + self.width);
        }
        sum / weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 48;

    /// A red disc before a striped ground, beside a blue square.
    fn scene() -> (Pixels, impl Fn(usize, usize) -> bool) {
        let is_disc = |x: usize, y: usize| {
            let (dx, dy) = (x as f32 - 20.0, y as f32 - 24.0);
            dx * dx + dy * dy < 100.0
        };
        let is_square = |x: usize, y: usize| x >= 31 && (16..32).contains(&y);
        let colour = move |x: usize, y: usize| match (is_disc(x, y), is_square(x, y)) {
            (true, _) => [0.9, 0.1, 0.1],
            (false, true) => [0.1, 0.1, 0.9],
            (false, false) => [0.5 + 0.1 * ((x / 3) % 2) as f32, 0.7, 0.4],
        };
        let channel = |c: usize| Plane::from_fn(SIDE, SIDE, |x, y| colour(x, y)[c]);
        (Pixels([channel(0), channel(1), channel(2)]), is_disc)
    }

    #[test]
    fn a_blurred_shifted_mask_finds_the_outline() {
        let (view, is_disc) = scene();
        let coarse = Plane::from_fn(SIDE, SIDE, |x, y| f32::from(is_disc(x.saturating_sub(4), y)));
        let belongs = belonging(&view, &coarse.blurred(4));
        let wrong = (0..SIDE * SIDE)
            .filter(|i| (belongs.values[*i] > 0.5) != is_disc(i % SIDE, i / SIDE))
            .count();
        assert!(wrong < 8, "{wrong} pixels are wrong");
    }

    #[test]
    fn what_the_mask_does_not_reach_does_not_belong() {
        let (view, _) = scene();
        let belongs = belonging(&view, &Plane::filled(SIDE, SIDE, 0.0));
        assert!(belongs.values.iter().all(|value| *value < 0.01));
        let everything = belonging(&view, &Plane::filled(SIDE, SIDE, 1.0));
        assert!(everything.values.iter().all(|value| *value > 0.5));
    }
}
