//! The three transforms of F(4×4, 3×3) at the points 0, ±√½, ±√2 and infinity.
use super::{PLACES, TAPS, TILE, WINDOW};
use crate::level::vectorised;

/// Channels that are transformed at once.
pub(super) const LANES: usize = 16;

/// One number of so many channels.
type Vector = [f32; LANES];

/// Lines of the transforms that belong together: of 0 and infinity, of a point and its opposite.
pub(super) const PAIRS: [(usize, usize); 3] = [(0, 5), (1, 2), (3, 4)];

/// √½ and √2: their squares multiply to one and add to 5/2.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// Six pixels of a line, or a column, of a window: values of the polynomial, Bᵀ.
#[inline(always)]
fn of_pixels(d: [f32; WINDOW]) -> [f32; WINDOW] {
    let even = [d[4] - 2.0 * d[2], d[4] - 0.5 * d[2]];
    let odd = [A * d[3] - B * d[1], B * d[3] - A * d[1]];
    [
        d[0] - 2.5 * d[2] + d[4],
        even[0] + odd[0],
        even[0] - odd[0],
        even[1] + odd[1],
        even[1] - odd[1],
        d[1] - 2.5 * d[3] + d[5],
    ]
}

/// Two of the lines of G, of three numbers each: those of 0 and infinity, of ±√½, or of ±√2.
#[inline(always)]
fn of_taps(pair: usize, g: [f32; 3]) -> [f32; 2] {
    // Products of the distances to the other points: 1 for 0, −3/2 for ±√½, 6 for ±√2.
    let (even, odd) = match pair {
        0 => return [g[0], g[2]],
        1 => ((g[0] + 0.5 * g[2]) * (-2.0 / 3.0), g[1] * (A * -2.0 / 3.0)),
        _ => ((g[0] + 2.0 * g[2]) * (1.0 / 6.0), g[1] * (B / 6.0)),
    };
    [even + odd, even - odd]
}

/// Six sums, to four pixels: Aᵀ.
#[inline(always)]
fn of_sums(m: [f32; WINDOW]) -> [f32; TILE] {
    let (near, far) = ([m[1] + m[2], m[1] - m[2]], [m[3] + m[4], m[3] - m[4]]);
    [
        m[0] + near[0] + far[0],
        A * near[1] + B * far[1],
        0.5 * near[0] + 2.0 * far[0],
        0.5 * A * near[1] + 2.0 * B * far[1] + m[5],
    ]
}

/// Four pixels of a gradient: A.
#[inline(always)]
fn of_gradients(d: [f32; TILE]) -> [f32; WINDOW] {
    let (near, far) = (
        [d[0] + 0.5 * d[2], A * d[1] + 0.5 * A * d[3]],
        [d[0] + 2.0 * d[2], B * d[1] + 2.0 * B * d[3]],
    );
    [d[0], near[0] + near[1], near[0] - near[1], far[0] + far[1], far[0] - far[1], d[3]]
}

/// Six sums, to the gradients of three taps: Gᵀ.
#[inline(always)]
fn to_taps(m: [f32; WINDOW]) -> [f32; 3] {
    let near = [(m[1] + m[2]) * (-2.0 / 3.0), (m[1] - m[2]) * (-2.0 / 3.0)];
    let far = [(m[3] + m[4]) * (1.0 / 6.0), (m[3] - m[4]) * (1.0 / 6.0)];
    [m[0] + near[0] + far[0], A * near[1] + B * far[1], 0.5 * near[0] + 2.0 * far[0] + m[5]]
}

/// The lanes of a slice that is long enough.
#[inline(always)]
fn vector(slice: &[f32], at: usize) -> &Vector {
    &slice[at..].as_chunks().0[0]
}

/// As [`vector`], to be written.
#[inline(always)]
fn vector_mut(slice: &mut [f32], at: usize) -> &mut Vector {
    &mut slice[at..].as_chunks_mut().0[0]
}

/// Square arrays of `N` numbers a side become such of `M`: `f` of all columns, then of all rows.
/// `between` is room for `M` rows of `N`.
#[inline(always)]
fn both_ways<const N: usize, const M: usize>(
    f: impl Fn([f32; N]) -> [f32; M],
    from: &[Vector],
    between: &mut [Vector],
    to: &mut [Vector],
) {
    for column in 0..N {
        each_lane(&f, (&from[column..], N), (&mut between[column..], N));
    }
    for (row, to) in between.chunks_exact(N).zip(to.chunks_exact_mut(M)) {
        each_lane(&f, (row, 1), (to, 1));
    }
}

/// `f` of each lane of `N` vectors becomes a lane of `M`; both so far apart.
#[inline(always)]
fn each_lane<const N: usize, const M: usize>(
    f: impl Fn([f32; N]) -> [f32; M],
    (from, from_step): (&[Vector], usize),
    (to, to_step): (&mut [Vector], usize),
) {
    for i in 0..LANES {
        let mut numbers = [0f32; N];
        for (index, number) in numbers.iter_mut().enumerate() {
            *number = from[index * from_step][i];
        }
        for (index, value) in f(numbers).into_iter().enumerate() {
            to[index * to_step][i] = value;
        }
    }
}

/// The channels of a square of pixels of `N` a side become those of its places, `plane` apart.
#[inline(always)]
fn to_places<const N: usize>(
    f: impl Fn([f32; N]) -> [f32; WINDOW],
    pixels: &[&[f32]],
    to: &mut [f32],
    plane: usize,
) {
    let channels = pixels[0].len();
    assert!(pixels.len() == N * N && pixels.iter().all(|pixel| pixel.len() == channels));
    assert!(to.len() >= (PLACES - 1) * plane + channels && channels.is_multiple_of(LANES));
    let (mut d, mut t) = ([[0f32; LANES]; PLACES], [[0f32; LANES]; PLACES]);
    let mut out = [[0f32; LANES]; PLACES];
    for first in (0..channels).step_by(LANES) {
        for (lanes, pixel) in d.iter_mut().zip(pixels) {
            *lanes = *vector(pixel, first);
        }
        both_ways(&f, &d[..N * N], &mut t[..WINDOW * N], &mut out);
        for (place, lanes) in out.iter().enumerate() {
            *vector_mut(to, place * plane + first) = *lanes;
        }
    }
}

vectorised! {
    /// The pixels of a window become places, `plane` apart.
    pub(super) fn windows(
        level: Level, window: &[&[f32]; PLACES], to: &mut [f32], plane: usize,
    ) {
        to_places(of_pixels, window, to, plane);
    }
}

vectorised! {
    /// The pixels of a tile of a gradient become places, `plane` apart.
    pub(super) fn gradients(
        level: Level, tile: &[&[f32]; TILE * TILE], to: &mut [f32], plane: usize,
    ) {
        to_places(of_gradients, tile, to, plane);
    }
}

/// Two lines of places of sixteen filters, for a pair of lines that the compiler knows.
#[inline(always)]
fn two_lines<const PAIR: usize>(g: &[Vector; TAPS], out: &mut [Vector; 2 * WINDOW]) {
    for i in 0..LANES {
        let mut sums = [[0f32; 3]; 2];
        for column in 0..3 {
            let lines = of_taps(PAIR, [g[column][i], g[3 + column][i], g[6 + column][i]]);
            (sums[0][column], sums[1][column]) = (lines[0], lines[1]);
        }
        for (line, sums) in sums.into_iter().enumerate() {
            for (pair, columns) in PAIRS.into_iter().enumerate() {
                let values = of_taps(pair, sums);
                out[line * WINDOW + columns.0][i] = values[0];
                out[line * WINDOW + columns.1][i] = values[1];
            }
        }
    }
}

vectorised! {
    /// Taps `(tap, element)` become two lines of places, those of a [pair](PAIRS),
    /// `(line, column, element)`.
    pub(super) fn filters(level: Level, pair: usize, taps: &[f32], to: &mut [f32]) {
        let elements = taps.len() / TAPS;
        let to = &mut to[..2 * WINDOW * elements];
        let mut g = [[0f32; LANES]; TAPS];
        let mut out = [[0f32; LANES]; 2 * WINDOW];
        for first in (0..elements / LANES * LANES).step_by(LANES) {
            for (tap, lanes) in g.iter_mut().enumerate() {
                *lanes = *vector(taps, tap * elements + first);
            }
            match pair {
                0 => two_lines::<0>(&g, &mut out),
                1 => two_lines::<1>(&g, &mut out),
                _ => two_lines::<2>(&g, &mut out),
            }
            for (place, lanes) in out.iter().enumerate() {
                *vector_mut(to, place * elements + first) = *lanes;
            }
        }
    }
}

vectorised! {
    /// The sums of one tile, place by place `plane` apart, become its pixels, of which those outside
    /// the picture are `None`.
    pub(super) fn pixels(
        level: Level,
        sums: &[f32],
        plane: usize,
        bias: &[f32],
        to: &mut [Option<&mut [f32]>; TILE * TILE],
    ) {
        let outputs = to[0].as_ref().map_or(0, |pixel| pixel.len());
        assert!(sums.len() >= (PLACES - 1) * plane + outputs && outputs.is_multiple_of(LANES));
        let (mut m, mut t) = ([[0f32; LANES]; PLACES], [[0f32; LANES]; TILE * WINDOW]);
        let mut out = [[0f32; LANES]; TILE * TILE];
        for first in (0..outputs).step_by(LANES) {
            for (place, lanes) in m.iter_mut().enumerate() {
                *lanes = *vector(sums, place * plane + first);
            }
            both_ways(of_sums, &m, &mut t, &mut out);
            let bias = *vector(bias, first);
            for (pixel, lanes) in to.iter_mut().zip(&out) {
                let Some(pixel) = pixel else { continue };
                let to = vector_mut(pixel, first);
                for i in 0..LANES {
                    to[i] = lanes[i] + bias[i];
                }
            }
        }
    }
}

vectorised! {
    /// The sums of the inputs of one output, place by place `plane` apart, become its taps,
    /// `(input, tap)`.
    pub(super) fn taps(level: Level, sums: &[f32], plane: usize, to: &mut [f32]) {
        let (mut m, mut t) = ([[0f32; LANES]; PLACES], [[0f32; LANES]; 3 * WINDOW]);
        let mut out = [[0f32; LANES]; TAPS];
        for (index, to) in to.chunks_exact_mut(TAPS * LANES).enumerate() {
            for (place, lanes) in m.iter_mut().enumerate() {
                *lanes = *vector(sums, place * plane + index * LANES);
            }
            both_ways(to_taps, &m, &mut t, &mut out);
            for i in 0..LANES {
                for tap in 0..TAPS {
                    to[i * TAPS + tap] = out[tap][i];
                }
            }
        }
    }
}
