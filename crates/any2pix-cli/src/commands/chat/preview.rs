//! Pictures in the terminal: kitty's and iTerm's protocols, sixels, or half-blocks.
//!
//! The environment says what a terminal can. Only one that calls itself by a name that answers is
//! asked: another would leave the question open, and the conversation with it.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use image::{DynamicImage, RgbImage, imageops};

use crate::printer::Printer;

/// How pictures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum How {
    /// As the environment says that the terminal can.
    Auto,
    /// Two pixels a character, in colour.
    Blocks,
    Kitty,
    Iterm,
    Sixel,
    /// Not at all.
    Off,
}

/// Most columns and rows of a picture.
const MOST: (u32, u32) = (72, 24);

/// Shows pictures.
pub(super) struct Preview {
    how: How,
}

fn variable(name: &str) -> String {
    std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned()
}

/// What the environment says about the terminal.
fn detect() -> How {
    let (term, program) = (variable("TERM"), variable("TERM_PROGRAM"));
    let inside_multiplexer = !variable("TMUX").is_empty() || term.starts_with("screen");
    if term.is_empty() || term == "dumb" {
        How::Off
    } else if inside_multiplexer {
        How::Blocks
    } else if !variable("KITTY_WINDOW_ID").is_empty()
        || ["kitty", "ghostty"].iter().any(|name| term.contains(name))
    {
        How::Kitty
    } else if ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) {
        How::Iterm
    } else if ["foot", "mlterm", "contour", "sixel"].iter().any(|name| term.contains(name)) {
        How::Sixel
    } else if variable("NO_COLOR").is_empty() {
        How::Blocks
    } else {
        How::Off
    }
}

/// Columns and rows for a picture of this size in a terminal of that; a row is two columns high.
fn cells((width, height): (u32, u32), (columns, rows): (u32, u32)) -> (u32, u32) {
    let (most_columns, most_rows) =
        (columns.clamp(1, MOST.0), rows.saturating_sub(4).clamp(1, MOST.1));
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let fitting_rows = (u64::from(most_columns) * height / (2 * width)).max(1);
    if fitting_rows <= u64::from(most_rows) {
        return (most_columns, fitting_rows as u32);
    }
    let fitting_columns = (u64::from(most_rows) * 2 * width / height).max(1);
    (fitting_columns as u32, most_rows)
}

/// Two pictures beside each other, with a gap between them.
fn beside(left: &RgbImage, right: &RgbImage) -> RgbImage {
    let height = left.height();
    let width = u64::from(right.width()) * u64::from(height) / u64::from(right.height().max(1));
    let scaled = imageops::thumbnail(right, width.clamp(1, 16_384) as u32, height.max(1));
    let gap = (left.width() / 40).max(2);
    let mut both = RgbImage::new(left.width() + gap + scaled.width(), height);
    imageops::replace(&mut both, left, 0, 0);
    imageops::replace(&mut both, &scaled, i64::from(left.width() + gap), 0);
    both
}

impl Preview {
    /// Shows pictures as `how` says, and none where nobody would see them.
    pub(super) fn new(how: How, printer: &Printer) -> Self {
        let seen = !printer.json && !printer.quiet && std::io::stdout().is_terminal();
        let how = match how {
            _ if !seen => How::Off,
            How::Auto => detect(),
            how => how,
        };
        Self { how }
    }

    /// False when pictures are not shown.
    pub(super) fn is_on(&self) -> bool {
        self.how != How::Off
    }

    /// Shows a picture.
    pub(super) fn show(&self, picture: &RgbImage, printer: &Printer) {
        if !self.is_on() {
            return;
        }
        let terminal = match viuer::terminal_size() {
            // One that does not know its size.
            (0, _) | (_, 0) => (80, 24),
            (columns, rows) => (columns.into(), rows.into()),
        };
        let (width, height) = cells(picture.dimensions(), terminal);
        let config = viuer::Config {
            absolute_offset: false,
            width: Some(width),
            height: Some(height),
            use_kitty: self.how == How::Kitty,
            use_iterm: self.how == How::Iterm,
            use_sixel: self.how == How::Sixel,
            ..viuer::Config::default()
        };
        // No terminal shows more, and the protocols would send every pixel.
        let (most_width, most_height) = (width * 12, height * 24);
        let small = if picture.width() > most_width || picture.height() > most_height {
            imageops::thumbnail(picture, most_width, most_height)
        } else {
            picture.clone()
        };
        if let Err(error) = viuer::print(&DynamicImage::ImageRgb8(small), &config) {
            printer.warning(&format!("the picture cannot be shown here: {error}"));
        }
        let _ = std::io::stdout().flush();
    }

    /// Shows two pictures beside each other.
    pub(super) fn compare(&self, before: &RgbImage, after: &RgbImage, printer: &Printer) {
        if self.is_on() {
            self.show(&beside(before, after), printer);
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn pictures_fit_and_keep_their_shape() {
        assert_eq!(cells((720, 480), (80, 40)), (72, 24));
        assert_eq!(cells((1000, 100), (80, 40)), (72, 3));
        assert_eq!(cells((100, 1000), (80, 40)), (4, 24));
        assert_eq!(cells((600, 600), (30, 12)), (16, 8));
        assert_eq!(cells((1, 100_000), (0, 0)), (1, 1));
    }

    #[test]
    fn the_second_picture_takes_the_height_of_the_first() {
        let left = RgbImage::from_pixel(80, 40, Rgb([9, 9, 9]));
        let right = RgbImage::from_pixel(40, 80, Rgb([200, 0, 0]));
        let both = beside(&left, &right);
        assert_eq!(both.dimensions(), (80 + 2 + 20, 40));
        assert_eq!(both.get_pixel(100, 20), &Rgb([200, 0, 0]));
    }
}
