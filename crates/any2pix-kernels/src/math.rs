//! Elementary functions that compilers can vectorise, and sums in lanes.
//!
//! `FUSED` says whether the instructions in use have multiply-add in one; without it, asking for it
//! would be a call of a slow function for each element.

/// `a · b + c`.
#[inline(always)]
pub(crate) fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The polynomial of `x` with these coefficients, the highest power first.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = mul_add::<FUSED>(sum, x, *coefficient);
    }
    sum
}

/// `eˣ` to about 2 units in the last place; 0 below -87.8, e⁸⁷ above 87, NaN stays.
///
/// Its callers want no more: softmax asks for no positive powers, and 1 + e⁸⁷ makes the others 0 or 1.
/// A larger range would cost a third more instructions.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Added to a number it rounds it; the sum's last bits are the exponent of the power of two.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    const SIXTH_ORDER: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    let x = if x < -88.0 { -88.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    let shifted = mul_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FUSED>(n, -0.693_359_4, x);
    let r = mul_add::<FUSED>(n, 2.121_944_4e-4, r);
    let p = polynomial::<FUSED, 6>(r, SIXTH_ORDER);
    let p = mul_add::<FUSED>(p, r * r, r);
    let power = f32::from_bits(shifted.to_bits() << 23);
    mul_add::<FUSED>(p, power, power)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// `tanh x`, to 1e-7 absolute.
#[inline(always)]
pub(crate) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FUSED>(2.0 * x) + 1.0)
}

/// The error function, a rational approximation to a few units in the last place.
#[inline(always)]
pub(crate) fn erf<const FUSED: bool>(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let square = x * x;
    x * polynomial::<FUSED, 7>(square, ABOVE) / polynomial::<FUSED, 5>(square, BELOW)
}

const LANES: usize = 16;
/// Lanes of several registers, whose sums do not wait for one another.
const WIDE: usize = 4 * LANES;

#[inline(always)]
fn narrowed(wide: [f32; WIDE]) -> [f32; LANES] {
    std::array::from_fn(|i| {
        (wide[i] + wide[i + LANES]) + (wide[i + 2 * LANES] + wide[i + 3 * LANES])
    })
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ f(x)`.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<WIDE>();
    let mut wide = [0.0; WIDE];
    for chunk in chunks {
        for i in 0..WIDE {
            wide[i] += f(chunk[i]);
        }
    }
    let mut lanes = narrowed(wide);
    let (chunks, rest) = rest.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    fold(lanes)
}

/// Replaces each `x` by `f(x)`; returns their sum.
#[inline(always)]
pub(crate) fn map_sum(x: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = f(chunk[i]);
            lanes[i] += chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = f(*x);
        *lane += *x;
    }
    fold(lanes)
}

/// `Σ f(x, y)`.
#[inline(always)]
pub(crate) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(*x, *y);
    }
    fold(lanes)
}

/// The largest element; -∞ for none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; WIDE];
    let (chunks, rest) = x.as_chunks::<WIDE>();
    for chunk in chunks {
        for i in 0..WIDE {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = if *x > *lane { *x } else { *lane };
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close() {
        for exp in [exp::<false>, exp::<true>] {
            for i in -8_700..8_700 {
                let x = i as f32 / 100.0;
                let expected = f64::from(x).exp();
                assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "{x}: {}", exp(x));
            }
            assert_eq!(exp(f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(-87.9), 0.0);
            assert_eq!(exp(f32::INFINITY), exp(87.0));
            assert!(exp(f32::NAN).is_nan() && exp(0.0) == 1.0);
        }
    }

    #[test]
    fn erf_and_tanh_are_close() {
        // ∫ by Simpson's rule in f64 is the reference of erf.
        let mut total = 0.0;
        let density = |t: f64| 2.0 / std::f64::consts::PI.sqrt() * (-t * t).exp();
        for i in 0..500 {
            let (a, h) = (f64::from(i) / 100.0, 0.01);
            for (erf, tanh) in [
                (erf::<false> as fn(f32) -> f32, tanh::<false> as fn(f32) -> f32),
                (erf::<true>, tanh::<true>),
            ] {
                assert!((f64::from(erf(a as f32)) - total).abs() < 5e-7, "erf {a}");
                assert!((f64::from(erf(-a as f32)) + total).abs() < 5e-7, "erf -{a}");
                assert!((f64::from(tanh(a as f32)) - a.tanh()).abs() < 2e-7, "tanh {a}");
            }
            total += h / 6.0 * (density(a) + 4.0 * density(a + h / 2.0) + density(a + h));
        }
    }

    #[test]
    fn sums_and_maxima() {
        let x: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(sum(&x, |x| x), 666.0);
        assert_eq!(sum2(&x, &x, |a, b| a - b + 1.0), 37.0);
        assert_eq!((max(&x), max(&[])), (36.0, f32::NEG_INFINITY));
    }
}
