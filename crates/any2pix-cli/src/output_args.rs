//! How a picture becomes a file: flags of format, quality and metadata, and names of outputs.

use std::path::{Path, PathBuf};

use any2pix_agent::{EditOutcome, Encoding, Format};
use clap::ValueEnum;

use crate::diagnostics::Failure;

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// Lossless.
    Png,
    /// Lossy, transparency on white.
    #[value(alias = "jpg")]
    Jpeg,
    /// Lossless.
    Webp,
}

/// How pictures are written.
#[derive(clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct EncodingArgs {
    /// Format of the picture; unless given, what the output's name ends in, else PNG.
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Quality of a JPEG, 1 to 100; unless given, 92.
    #[arg(long, value_name = "N")]
    quality: Option<u8>,
    /// Leave out the source's EXIF and XMP: camera, place, author. What stays is its colour
    /// profile, how the picture was made, and that a model made it.
    #[arg(long)]
    strip: bool,
}

impl EncodingArgs {
    /// Whether any of them is given.
    pub(crate) fn is_given(&self) -> bool {
        self.format.is_some() || self.quality.is_some() || self.strip
    }

    /// How the picture is written to `output`, or to a file that is still to be named.
    pub(crate) fn resolve(&self, output: Option<&Path>) -> Result<Encoding, Failure> {
        let asked = self.format.map(|format| match format {
            FormatArg::Png => Format::Png,
            FormatArg::Jpeg => Format::Jpeg,
            FormatArg::Webp => Format::WebP,
        });
        let format = agreed(asked, output)?;
        let encoding = Encoding { format, quality: self.quality, strip: self.strip };
        encoding.validate()?;
        Ok(encoding)
    }
}

/// The format that is asked for, which the name of `output` must not deny.
pub(crate) fn agreed(asked: Option<Format>, output: Option<&Path>) -> Result<Format, Failure> {
    let named = output.map(|path| (path, Format::of_path(path)));
    match (asked, named) {
        (Some(asked), Some((path, Some(named)))) if asked != named => {
            let (asked, named) = (asked.name(), named.name());
            let message = format!("{}: is named as {named}; asked is {asked}", path.display());
            Err(Failure::refused(message).hint("leave --format out, or give the file another name"))
        }
        (Some(asked), _) => Ok(asked),
        (None, Some((_, Some(named)))) => Ok(named),
        (None, Some((path, None))) => {
            let message = format!("{}: its name ends in no format", path.display());
            Err(Failure::refused(message).hint("end it in .png, .jpg or .webp, or give --format"))
        }
        (None, None) => Ok(Format::default()),
    }
}

/// A name in the current folder that no file has: after `replayed`, or after the picture that was
/// edited.
pub(crate) fn free_name(
    outcome: &EditOutcome,
    inputs: &[(String, PathBuf)],
    replayed: Option<&Path>,
    format: Format,
) -> PathBuf {
    let base = outcome.plan.base.as_ref();
    let base = base.and_then(|base| inputs.iter().find(|(name, _)| name == base));
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stem = match (replayed, base) {
        (Some(file), _) => format!("{}-replayed", stem(file)),
        (None, Some((_, path))) => format!("{}-edited", stem(path)),
        (None, None) => "picture".to_string(),
    };
    let extension = format.extension();
    let numbered = (2..).map(|number| format!("{stem}-{number}.{extension}"));
    let mut names = std::iter::once(format!("{stem}.{extension}")).chain(numbered);
    let free = names.find(|name| !Path::new(name).exists());
    PathBuf::from(free.unwrap_or_default())
}
