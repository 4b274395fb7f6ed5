//! Names of references as a file may tell them to strangers: none says where on a machine
//! something lies.

use std::path::{Component, Path};

/// What stands for each of `names` in files that are given away: relative names as they are, of
/// absolute ones the file's name, of others what follows the last `..`. Different names stay
/// different, and public names stay as they are.
pub(crate) fn public_names(names: &[String]) -> Vec<String> {
    let mut public: Vec<String> = Vec::new();
    for name in names {
        let wanted = relative(name);
        let mut unique = wanted.clone();
        let mut number = 1;
        while public.contains(&unique) || (unique != *name && names.contains(&unique)) {
            number += 1;
            unique = numbered(&wanted, number);
        }
        public.push(unique);
    }
    public
}

/// The part of a name that stays on every machine the same.
pub(crate) fn relative(name: &str) -> String {
    let path = Path::new(name);
    let is_plain = |c: &Component| matches!(c, Component::Normal(_) | Component::CurDir);
    if path.components().all(|c| is_plain(&c)) {
        return name.to_string();
    }
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_absolute() || path.has_root() {
        return last.into_owned();
    }
    let kept: Vec<_> = path.components().rev().take_while(is_plain).collect();
    let kept: std::path::PathBuf = kept.into_iter().rev().collect();
    kept.to_string_lossy().into_owned()
}

/// `park.png` becomes `park-2.png`.
fn numbered(name: &str, number: usize) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}-{number}.{extension}"),
        None => format!("{name}-{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(names: &[&str]) -> Vec<String> {
        public_names(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn no_name_tells_where_it_lay_and_different_ones_stay_different() {
        assert_eq!(public(&["image1", "./a/park.jpg"]), ["image1", "./a/park.jpg"]);
        assert_eq!(public(&["/srv/u/park.jpg", "../../b/dog.ogg"]), ["park.jpg", "b/dog.ogg"]);
        assert_eq!(public(&["/a/x.png", "x.png", "/b/x.png"]), ["x-2.png", "x.png", "x-3.png"]);
        let once = public(&["/a/x", "/b/x", "../x"]);
        assert_eq!(once, ["x", "x-2", "x-3"]);
        assert_eq!(public_names(&once), once, "a replay records the same names");
    }
}
