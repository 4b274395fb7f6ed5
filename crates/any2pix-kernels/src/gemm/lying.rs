//! `Lying`: how the elements of a matrix lie in memory, so that kernels can read them there.

use std::ops::Range;

/// Rows of pixels or of numbers: `row` apart in a line, lines in a picture, pictures one after
/// another. Of each row, runs of columns lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Lying<'a> {
    /// All there is.
    pub data: &'a [f32],
    /// Distance of rows.
    pub row: usize,
    /// Rows of a line, and the distance of lines.
    pub line: (usize, usize),
    /// Lines of a picture, and the distance of pictures.
    pub picture: (usize, usize),
    /// Columns of a run, and the distance of runs.
    pub run: (usize, usize),
}

/// Rows that are equally far apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    /// The first, counted from where strips begin.
    pub(super) row: usize,
    pub(super) rows: usize,
    /// Where its first column is.
    at: usize,
}

/// Columns that lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The first, counted from where runs begin.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// How far it is from the row's first column.
    at: usize,
}

impl<'a> Lying<'a> {
    /// Plain rows, `stride` apart.
    pub(super) fn rows(data: &'a [f32], stride: usize) -> Self {
        let endless = (usize::MAX, 0);
        Self { data, row: stride, line: endless, picture: endless, run: endless }
    }

    /// These rows in strips of at most `most`; those of a line are equally high, or nearly so.
    pub(super) fn strips(&self, rows: Range<usize>, most: usize) -> Vec<Strip> {
        let mut strips = Vec::with_capacity(rows.len() / most + 1);
        let mut row = rows.start;
        while row < rows.end {
            let (line, inside) = (row / self.line.0, row % self.line.0);
            let (picture, line) = (line / self.picture.0, line % self.picture.0);
            let at = picture * self.picture.1 + line * self.line.1 + inside * self.row;
            let left = (rows.end - row).min(self.line.0 - inside);
            let count = left.div_ceil(left.div_ceil(most));
            strips.push(Strip { row: row - rows.start, rows: count, at });
            row += count;
        }
        strips
    }

    /// These columns in runs.
    pub(super) fn runs(&self, columns: Range<usize>) -> impl Iterator<Item = Run> {
        let (mut column, run) = (columns.start, self.run);
        std::iter::from_fn(move || {
            let left = columns.end.checked_sub(column).filter(|left| *left > 0)?;
            let (index, inside) = (column / run.0, column % run.0);
            let count = left.min(run.0 - inside);
            let first = column - columns.start;
            column += count;
            Some(Run { column: first, columns: count, at: index * run.1 + inside })
        })
    }

    /// Where a run of a strip begins; the rows of the strip are [`Self::row`] apart.
    ///
    /// # Panics
    /// If not all of it is there.
    #[inline]
    pub(super) fn place(&self, strip: &Strip, run: &Run) -> *const f32 {
        let at = strip.at + run.at;
        let last = at + (strip.rows - 1) * self.row + run.columns - 1;
        assert!(last < self.data.len(), "element {last} of {}", self.data.len());
        self.data[at..].as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_end_with_their_line_and_runs_with_theirs() {
        let data: Vec<f32> = (0..2 * 5 * 7 * 3).map(|i| i as f32).collect();
        // Patches of 2×2 pixels of 3 channels in two pictures of 5×7 pixels, every second column.
        let lying = Lying { data: &data, row: 6, line: (3, 21), picture: (4, 105), run: (6, 21) };
        let strips = lying.strips(1..23, 2);
        let rows: Vec<(usize, usize)> =
            strips.iter().map(|strip| (strip.row, strip.rows)).collect();
        assert_eq!(rows[..5], [(0, 2), (2, 2), (4, 1), (5, 2), (7, 1)]);
        assert_eq!(rows.iter().map(|(_, rows)| rows).sum::<usize>(), 22);
        let runs: Vec<Run> = lying.runs(4..12).collect();
        assert_eq!(
            runs.iter().map(|run| (run.column, run.columns)).collect::<Vec<_>>(),
            [(0, 2), (2, 6)]
        );
        // Row 12 is the second picture's first patch; column 6 begins its second line.
        let strip = strips.iter().find(|strip| strip.row == 11).unwrap();
        let first = lying.place(strip, &runs[1]);
        assert_eq!(first, &raw const data[105 + 21]);
    }
}
