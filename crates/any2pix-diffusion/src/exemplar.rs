//! Holes filled with what surrounds them, patch by patch: coherent patches of the known part
//! (Wexler, Shechtman, Irani 2007), found by PatchMatch (Barnes et al. 2009), from coarse to fine.

use any2pix_nn::Generator;

use crate::draft::fill_planes;

/// A patch reaches this far from its middle.
const REACH: usize = 2;
/// Places in a patch.
const PATCH: usize = (2 * REACH + 1) * (2 * REACH + 1);
/// Side of the coarsest picture, at least.
const COARSEST: usize = 12;
/// How often patches are sought and the hole is painted from them at one size.
const ROUNDS: usize = 3;

/// A patch from as far up or down as the picture is high is as unlike as this many patches whose
/// every colour differs by the deviation of all: skies stay above and grounds below.
const UPRIGHT: f32 = 4.0;

/// A colour, any range.
pub type Colour = [f32; 3];

/// A picture with a hole.
#[derive(Clone, Debug)]
pub struct Holed {
    /// Row by row.
    pub colours: Vec<Colour>,
    /// What is unknown.
    pub hole: Vec<bool>,
    /// Columns.
    pub width: usize,
}

impl Holed {
    fn height(&self) -> usize {
        self.colours.len() / self.width.max(1)
    }

    /// Half the size; a cell with anything unknown in it is unknown, its colour of what is known.
    fn half(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height().div_ceil(2));
        let mut sums = vec![([0f32; 3], 0f32, false); width * height];
        for (at, (colour, hole)) in self.colours.iter().zip(&self.hole).enumerate() {
            let cell = &mut sums[at / self.width / 2 * width + at % self.width / 2];
            if *hole {
                cell.2 = true;
            } else {
                (0..3).for_each(|c| cell.0[c] += colour[c]);
                cell.1 += 1.0;
            }
        }
        let colours = sums.iter().map(|(sum, n, _)| sum.map(|value| value / n.max(1.0))).collect();
        Self { colours, hole: sums.iter().map(|(_, _, hole)| *hole).collect(), width }
    }

    /// Whether a whole patch around a place is inside and known.
    fn is_source(&self, at: usize) -> bool {
        let (x, y) = (at % self.width, at / self.width);
        let inside = |value: usize, length: usize| value >= REACH && value + REACH < length;
        inside(x, self.width)
            && inside(y, self.height())
            && (y - REACH..=y + REACH).all(|row| {
                !self.hole[row * self.width + x - REACH..=row * self.width + x + REACH]
                    .contains(&true)
            })
    }

    /// The hole filled smoothly from its rim.
    fn smooth(&self) -> Vec<Colour> {
        let area = self.colours.len();
        let planes: Vec<f32> =
            (0..3).flat_map(|c| self.colours.iter().map(move |colour| colour[c])).collect();
        let known = self.hole.iter().map(|hole| f32::from(!hole)).collect();
        let filled = fill_planes(planes, known, 3, self.width);
        (0..area).map(|at| std::array::from_fn(|c| filled[c * area + at])).collect()
    }

    /// The picture without its hole. At coarser sizes that show less than they lack, which may be
    /// all sky or all ground, patches are not sought: the next size begins smoothly. Where nothing
    /// is known of a patch's size the hole is filled smoothly.
    pub fn complete(&self, generator: &mut Generator) -> Vec<Colour> {
        let mut levels = vec![self.clone()];
        while let Some(last) = levels.last()
            && last.width.min(last.height()) >= 2 * COARSEST
            && last.hole.contains(&true)
        {
            let half = last.half();
            levels.push(half);
        }
        let mut painted: Option<Search> = None;
        for level in levels.iter().rev() {
            let sources: Vec<usize> =
                (0..level.colours.len()).filter(|&at| level.is_source(at)).collect();
            let unknown = level.hole.iter().filter(|hole| **hole).count();
            let is_finest = level.width == self.width;
            if sources.is_empty() || (sources.len() < unknown && !is_finest) {
                continue;
            }
            let mut search = Search::begin(level, sources, painted.as_ref(), generator);
            for _ in 0..ROUNDS {
                search.improve(generator);
                search.paint();
            }
            painted = Some(search);
        }
        match painted {
            Some(search) if search.width == self.width => search.colours,
            _ => self.smooth(),
        }
    }
}

/// For every place whose patch touches the hole, the most alike patch of the known part.
struct Search {
    colours: Vec<Colour>,
    hole: Vec<bool>,
    width: usize,
    is_source: Vec<bool>,
    sources: Vec<usize>,
    /// Places whose patch touches the hole, in reading order.
    targets: Vec<usize>,
    /// By place: the middle of its patch in the known part, and how unlike they are.
    matches: Vec<(usize, f32)>,
    /// What a patch from as far up or down as the picture is high costs.
    upright: f32,
}

impl Search {
    fn begin(
        level: &Holed,
        sources: Vec<usize>,
        coarser: Option<&Self>,
        generator: &mut Generator,
    ) -> Self {
        let width = level.width;
        let colours = match coarser {
            Some(coarser) => coarser.colours_at(level),
            None => level.smooth(),
        };
        let touched: Vec<bool> = (0..level.colours.len())
            .map(|at| offsets(at, width, level.height()).any(|(near, _)| level.hole[near]))
            .collect();
        let targets: Vec<usize> = (0..touched.len()).filter(|&at| touched[at]).collect();
        let upright = UPRIGHT * PATCH as f32 * variance(&level.colours, &sources);
        let mut is_source = vec![false; touched.len()];
        sources.iter().for_each(|&at| is_source[at] = true);
        let anywhere = sources[0];
        let mut search = Self {
            colours,
            hole: level.hole.clone(),
            width,
            is_source,
            sources,
            targets,
            matches: vec![(anywhere, f32::INFINITY); touched.len()],
            upright,
        };
        for at in search.targets.clone() {
            let drawn = search.sources[generator.below(search.sources.len())];
            let hinted = coarser.and_then(|coarser| search.hinted_by(coarser, at));
            search.consider(at, hinted.unwrap_or(drawn));
        }
        search
    }

    fn height(&self) -> usize {
        self.colours.len() / self.width
    }

    /// The hole of a level of twice this size in this one's colours.
    fn colours_at(&self, level: &Holed) -> Vec<Colour> {
        let of = |(at, (colour, hole)): (usize, (&Colour, &bool))| {
            let (x, y) = (at % level.width / 2, at / level.width / 2);
            if *hole { self.colours[y * self.width + x] } else { *colour }
        };
        level.colours.iter().zip(&level.hole).enumerate().map(of).collect()
    }

    fn hinted_by(&self, coarser: &Self, at: usize) -> Option<usize> {
        let (x, y) = (at % self.width, at / self.width);
        let (found, _) = coarser.matches[y / 2 * coarser.width + x / 2];
        let (fx, fy) = (found % coarser.width * 2 + x % 2, found / coarser.width * 2 + y % 2);
        let place = fy * self.width + fx;
        (fx < self.width && fy < self.height() && self.is_source[place]).then_some(place)
    }

    /// How unlike the patches around two places are; `most` is when to stop counting.
    fn distance(&self, target: usize, source: usize, most: f32) -> f32 {
        let rows = (source / self.width).abs_diff(target / self.width) as f32;
        let shift = rows / self.height() as f32;
        let mut sum = self.upright * shift * shift;
        for (near, offset) in offsets(target, self.width, self.height()) {
            let other = (source as isize + offset) as usize;
            let (a, b) = (&self.colours[near], &self.colours[other]);
            // What is known has more to say than what is painted.
            let weight = if self.hole[near] { 1.0 } else { 2.0 };
            sum += weight * (0..3).map(|c| (a[c] - b[c]) * (a[c] - b[c])).sum::<f32>();
            if sum >= most {
                break;
            }
        }
        sum
    }

    fn consider(&mut self, target: usize, source: usize) {
        let best = self.matches[target];
        if source == best.0 && best.1.is_finite() {
            return;
        }
        let distance = self.distance(target, source, best.1);
        if distance < best.1 {
            self.matches[target] = (source, distance);
        }
    }

    /// Good matches spread to neighbours, and random places around them are tried.
    fn improve(&mut self, generator: &mut Generator) {
        for at in self.targets.clone() {
            let (source, _) = self.matches[at];
            self.matches[at].1 = self.distance(at, source, f32::INFINITY);
        }
        for backwards in [false, true] {
            let order: Vec<usize> = match backwards {
                false => self.targets.clone(),
                true => self.targets.iter().rev().copied().collect(),
            };
            for at in order {
                self.follow_neighbours(at, backwards);
                self.try_around(at, generator);
            }
        }
    }

    fn follow_neighbours(&mut self, at: usize, backwards: bool) {
        let step = if backwards { -1 } else { 1 };
        for step in [step, step * self.width as isize] {
            let Some(neighbour) = at.checked_add_signed(-step) else { continue };
            if let Some(&(source, distance)) = self.matches.get(neighbour)
                && distance.is_finite()
                && let Some(shifted) = source.checked_add_signed(step)
                && self.is_source.get(shifted) == Some(&true)
            {
                self.consider(at, shifted);
            }
        }
    }

    fn try_around(&mut self, at: usize, generator: &mut Generator) {
        let (width, height) = (self.width as i64, self.height() as i64);
        let mut radius = width.max(height);
        while radius >= 1 {
            let source = self.matches[at].0 as i64;
            let mut shift = || generator.below(2 * radius as usize + 1) as i64 - radius;
            let (x, y) = (source % width + shift(), source / width + shift());
            if (0..width).contains(&x) && (0..height).contains(&y) {
                let place = (y * width + x) as usize;
                if self.is_source[place] {
                    self.consider(at, place);
                }
            }
            radius /= 2;
        }
    }

    /// Every unknown place becomes the mean of what the patches over it say, the best of them
    /// most.
    fn paint(&mut self) {
        let targets = &self.targets;
        let mut known: Vec<f32> = targets.iter().map(|&at| self.matches[at].1).collect();
        known.sort_unstable_by(f32::total_cmp);
        let usual = known.get(known.len() / 2).copied().unwrap_or(1.0).max(1e-4);
        let mut sums = vec![([0f32; 3], 0f32); self.colours.len()];
        for &at in targets {
            let (source, distance) = self.matches[at];
            let weight = libm::expf(-2.0 * (distance / usual).min(20.0)) + 1e-6;
            for (near, offset) in offsets(at, self.width, self.height()) {
                if self.hole[near] {
                    let colour = self.colours[(source as isize + offset) as usize];
                    (0..3).for_each(|c| sums[near].0[c] += weight * colour[c]);
                    sums[near].1 += weight;
                }
            }
        }
        for (colour, (sum, weight)) in self.colours.iter_mut().zip(sums) {
            if weight > 0.0 {
                *colour = sum.map(|value| value / weight);
            }
        }
    }
}

/// How far the colours of some places are from their mean: the mean of the squares, all channels.
fn variance(colours: &[Colour], places: &[usize]) -> f32 {
    let count = places.len().max(1) as f32;
    let mean =
        |value: &dyn Fn(usize) -> f32| places.iter().map(|at| value(*at)).sum::<f32>() / count;
    let of_channel = |c: usize| {
        let usual = mean(&|at| colours[at][c]);
        mean(&|at| (colours[at][c] - usual) * (colours[at][c] - usual))
    };
    (0..3).map(of_channel).sum()
}

/// The places of the patch around one, as far as they are inside, and how far they are from it in
/// reading order.
fn offsets(at: usize, width: usize, height: usize) -> impl Iterator<Item = (usize, isize)> {
    let (x, y) = (at % width, at / width);
    let span =
        |value: usize, length: usize| value.saturating_sub(REACH)..(value + REACH + 1).min(length);
    let columns = span(x, width);
    span(y, height).flat_map(move |row| {
        columns.clone().map(move |column| {
            let near = row * width + column;
            (near, near as isize - at as isize)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holed(
        picture: impl Fn(usize, usize) -> Colour,
        is_hole: impl Fn(usize, usize) -> bool,
    ) -> Holed {
        let (width, height) = (64, 48);
        let at = |i: usize| (i % width, i / width);
        let hole: Vec<bool> = (0..width * height).map(|i| is_hole(at(i).0, at(i).1)).collect();
        let colours = (0..width * height)
            .map(|i| if hole[i] { [9.0; 3] } else { picture(at(i).0, at(i).1) })
            .collect();
        Holed { colours, hole, width }
    }

    #[test]
    fn stripes_go_on_through_a_hole() {
        let stripes =
            |x: usize, _| if (x / 4).is_multiple_of(2) { [0.0, 0.2, 0.4] } else { [1.0, 0.8, 0.6] };
        let hole = |x: usize, y: usize| (24..40).contains(&x) && (16..32).contains(&y);
        let picture = holed(stripes, hole);
        let completed = picture.complete(&mut Generator::new(1));
        let mut wrong = 0;
        for (at, colour) in completed.iter().enumerate() {
            let right = stripes(at % 64, at / 64);
            let far = (0..3).any(|c| (colour[c] - right[c]).abs() > 0.3);
            assert!(picture.hole[at] || !far, "what was known has changed");
            wrong += usize::from(far);
        }
        assert!(wrong < 40, "{wrong} of 256");
        assert_eq!(completed, picture.complete(&mut Generator::new(1)));
    }

    #[test]
    fn a_horizon_goes_on_through_a_large_hole() {
        let land = |_, y: usize| if y < 26 { [0.2, 0.5, 0.9] } else { [0.3, 0.6, 0.1] };
        let hole = |x: usize, y: usize| (12..58).contains(&x) && (10..44).contains(&y);
        let picture = holed(land, hole);
        let completed = picture.complete(&mut Generator::new(1));
        let is_wrong = |(at, colour): &(usize, &Colour)| {
            let right = land(at % 64, at / 64);
            (0..3).any(|c| (colour[c] - right[c]).abs() > 0.3)
        };
        let wrong = completed.iter().enumerate().filter(is_wrong).count();
        assert!(wrong < 100, "{wrong} of 1564");
    }

    #[test]
    fn a_hole_without_surroundings_is_filled_all_the_same() {
        let picture = holed(|_, _| [0.5; 3], |x, _| x > 2);
        let completed = picture.complete(&mut Generator::new(1));
        assert!(completed.iter().flatten().all(|value| (value - 0.5).abs() < 1e-3));
    }
}
