//! Systems that make nothing: they copy the source, the target, or what another system left.

use std::path::{Path, PathBuf};

use any2pix_agent::EditRequest;
use any2pix_agent::outcome::{PlanReport, Rect, SubjectReport, sha256, sha256_of_file};
use image::DynamicImage;

use super::{Edited, System};
use crate::suite::{Item, Subject, Suite};
use crate::{EvalError, Result};

/// Copies the source and plans nothing: the floor of what edits change, the ceiling of what they
/// keep.
pub struct Identity<'a>(pub &'a Suite);

impl System for Identity<'_> {
    fn edit(&self, item: &Item, _request: &EditRequest) -> Result<Edited> {
        let reason = "there is no source to copy";
        let base = item.base.as_ref().ok_or_else(|| EvalError::inapplicable(reason))?;
        let image = DynamicImage::ImageRgb8(self.0.picture(base)?);
        let plan = PlanReport {
            base: item.base.clone(),
            operation: String::new(),
            caption: item.source_caption.clone().unwrap_or_default(),
            subjects: Vec::new(),
            place: None,
            look: None,
            text: String::new(),
            unbound_text: None,
        };
        Ok(Edited { plan: Some(plan), ..Edited::picture(image) })
    }
}

/// Copies the target and plans what was meant: the ceiling.
pub struct Oracle<'a>(pub &'a Suite);

impl System for Oracle<'_> {
    fn edit(&self, item: &Item, _request: &EditRequest) -> Result<Edited> {
        let reason = "nobody knows the target";
        let target = item.target.as_ref().ok_or_else(|| EvalError::inapplicable(reason))?;
        let image = DynamicImage::ImageRgb8(self.0.picture(target)?);
        let wanted = item.wanted.iter().map(|subject| report(subject, "add"));
        let unwanted = item.unwanted.iter().map(|subject| report(subject, "remove"));
        let plan = PlanReport {
            base: item.base.clone(),
            operation: item.operation.clone(),
            caption: item.caption.clone().unwrap_or_default(),
            subjects: wanted.chain(unwanted).collect(),
            place: item.place.clone(),
            look: item.look.clone(),
            text: String::new(),
            unbound_text: None,
        };
        Ok(Edited { plan: Some(plan), ..Edited::picture(image) })
    }
}

fn report(subject: &Subject, role: &str) -> SubjectReport {
    let crate::suite::Bounds { x, y, width, height } = subject.bbox;
    SubjectReport {
        name: subject.concept.clone(),
        role: role.to_string(),
        reference: subject.reference.clone(),
        gallery: None,
        similarity: None,
        region: Some(Rect { x, y, width, height }),
        window: None,
    }
}

/// Pictures that another system made, named after the items: `ID.png`, `ID.jpg`, ….
pub struct Stored {
    folder: PathBuf,
}

/// Kinds of pictures that are looked for, the first first.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

impl Stored {
    /// The pictures in `folder`, or in its folder `outputs`.
    pub fn open(folder: &Path) -> Result<Self> {
        let inner = folder.join("outputs");
        let folder = if inner.is_dir() { inner } else { folder.to_path_buf() };
        std::fs::read_dir(&folder).map_err(EvalError::io(&folder))?;
        Ok(Self { folder })
    }

    fn file(&self, id: &str) -> Option<PathBuf> {
        let named = EXTENSIONS.map(|extension| self.folder.join(format!("{id}.{extension}")));
        named.into_iter().find(|path| path.is_file())
    }

    /// SHA-256 over the pictures of these items; none there at all is an error.
    pub fn fingerprint(&self, items: &[Item]) -> Result<String> {
        let mut lines = String::new();
        for item in items {
            let Some(path) = self.file(&item.id) else { continue };
            let hash = sha256_of_file(&path).map_err(EvalError::io(&path))?;
            lines.push_str(&format!("{} {hash}\n", item.id));
        }
        if lines.is_empty() {
            let reason = "no picture in it is named after an item of the suite";
            return Err(EvalError::malformed(&self.folder, reason));
        }
        Ok(sha256(lines.as_bytes()))
    }
}

impl System for Stored {
    fn edit(&self, item: &Item, _request: &EditRequest) -> Result<Edited> {
        let reason = format!("{}: no picture named {}", self.folder.display(), item.id);
        let path = self.file(&item.id).ok_or_else(|| EvalError::inapplicable(reason))?;
        let limits = any2pix_encoders::image::ImageLimits::default();
        let picture = any2pix_encoders::image::open(&path, &limits);
        let picture = picture.map_err(|e| EvalError::malformed(&path, e))?;
        Ok(Edited::picture(DynamicImage::ImageRgb8(picture.rgb)))
    }
}
