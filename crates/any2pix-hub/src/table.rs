//! `TensorTable`: the name and shape of every tensor of a component, from its `tensors.txt`.

use std::collections::BTreeMap;

use crate::error::{HubError, Result};

/// Every tensor of a published component by its published name.
///
/// A line of the file is `name 4096x1024`, or `name scalar`; `{0..31}` in a name stands for all
/// numbers from 0 to 31, `{1..139:2}` for the odd ones. Lines that begin with `#` are comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorTable(BTreeMap<String, Vec<usize>>);

impl TensorTable {
    /// Reads the text of a `tensors.txt`; `origin` names it in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = |reason: String| HubError::Malformed {
                origin: format!("{origin}, line {}", number + 1),
                reason,
            };
            let Some((name, shape)) = line.split_once(' ') else {
                return Err(malformed(format!("`{line}` is not a name and a shape")));
            };
            let shape = parse_shape(shape)
                .ok_or_else(|| malformed(format!("`{shape}` is not a shape such as 4096x1024")))?;
            let names = expand(name)
                .ok_or_else(|| malformed(format!("`{name}` has a range that is none")))?;
            for name in names {
                if tensors.insert(name.clone(), shape.clone()).is_some() {
                    return Err(malformed(format!("`{name}` is there twice")));
                }
            }
        }
        Ok(Self(tensors))
    }

    /// Names and shapes, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// The shape of the tensor of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Numbers in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.0.values().map(|shape| elements(shape)).sum()
    }
}

/// Numbers in a tensor of that shape.
pub(crate) fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}

fn parse_shape(text: &str) -> Option<Vec<usize>> {
    match text {
        "scalar" => Some(Vec::new()),
        _ => text.split('x').map(|size| size.parse().ok()).collect(),
    }
}

/// All names that `pattern` stands for; `None` if a range in it cannot be read.
pub(crate) fn expand(pattern: &str) -> Option<Vec<String>> {
    let Some((head, rest)) = pattern.split_once('{') else {
        return Some(vec![pattern.to_string()]);
    };
    let (range, tail) = rest.split_once('}')?;
    let (range, step) = match range.split_once(':') {
        Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
        None => (range, 1),
    };
    let (first, last) = range.split_once("..")?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let tails = expand(tail)?;
    let names = (first..=last).step_by(step);
    Some(names.flat_map(|i| tails.iter().map(move |tail| format!("{head}{i}{tail}"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stand_for_their_numbers() {
        let names = expand("a.{0..1}.b.{1..5:2}.c").unwrap();
        assert_eq!(names.len(), 6);
        assert_eq!((names[0].as_str(), names[5].as_str()), ("a.0.b.1.c", "a.1.b.5.c"));
        assert_eq!(expand("plain").unwrap(), ["plain"]);
        for wrong in ["a.{0..", "a.{0..x}", "a.{3}", "a.{0..4:0}"] {
            assert!(expand(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_table_counts_and_refuses() {
        let table = TensorTable::parse("test", "# note\nw.{0..2} 4x2\ns scalar\n").unwrap();
        assert_eq!((table.len(), table.parameters()), (4, 25));
        assert_eq!(table.shape("w.1"), Some(&[4, 2][..]));
        for wrong in ["w", "w 4xx", "w.{0..1} 2\nw.1 2", "w.{1 2"] {
            let error = TensorTable::parse("test", wrong).unwrap_err().to_string();
            assert!(error.contains("test, line"), "{error}");
        }
    }
}
