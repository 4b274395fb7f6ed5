//! Files of `torch.save`: a pickle, and the storages that its tensors are views into.

use std::collections::HashMap;

use super::bytes::{Bytes, Cursor};
use super::error::{Fault, malformed};
use super::file::{Contents, MAX_NAME, MAX_TENSORS};
use super::json::short;
use super::pickle::{self, Global, Object, StorageRef, TensorRef, Unpickled, Value};
use super::stored::{Stored, StoredType, byte_count};
use super::zip::{self, Entries};

pub(super) use super::pickle::CONVERT;

/// What a file from before torch 1.6 begins with: a pickle of one long number.
pub(super) const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Version of the legacy container.
const LEGACY_PROTOCOL: i64 = 1001;

/// Longest pickle; that of a model has less than a megabyte.
const MAX_PICKLE: usize = 64 << 20;

/// Deepest nesting of dictionaries and lists.
const MAX_DEPTH: usize = 32;

/// Most values that are looked at: what is shared is looked at once for each of its places.
const MAX_VISITS: usize = 1_000_000;

/// Most bytes of all names together.
const MAX_NAMES: usize = 64 << 20;

/// Entries beside the pickle and its storages that every version of torch may write.
const BESIDE: &[&str] =
    &["version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"];

/// A zip file of torch 1.6 and later.
pub(super) fn read_zip(bytes: &Bytes) -> Result<Contents, Fault> {
    let entries = zip::entries(bytes)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let (root, others) = (pickles.next(), pickles.next());
    let root = match (root, others) {
        (Some(root), None) if root.ends_with('/') && !root[..root.len() - 1].contains('/') => root,
        (None, _) => {
            let reason = "a zip file without data.pkl: not one that torch.save writes".to_string();
            return Err(Fault::Refused(reason, CONVERT));
        }
        _ => return malformed("more than one data.pkl, or one in a place of its own"),
    };
    check_entries(bytes, &entries, root)?;
    let pickle = &bytes[entries[&format!("{root}data.pkl")].clone()];
    if pickle.len() > MAX_PICKLE {
        return malformed(format!("a pickle of {} bytes", pickle.len()));
    }
    let mut cursor = Cursor::new(pickle);
    let unpickled = pickle::read(&mut cursor)?;
    if cursor.left() > 0 {
        return malformed(format!("{} bytes behind the end of the pickle", cursor.left()));
    }
    flatten(&unpickled, &mut |tensor| {
        let StorageRef { kind, key, count } = tensor.storage;
        let Some(place) = entries.get(&format!("{root}data/{key}")) else {
            return malformed(format!("storage `{}` is missing", short(key)));
        };
        if byte_count(kind, &[count])? != place.len() {
            let size = place.len();
            let reason = format!("storage `{}` of {count} {kind} has {size} bytes", short(key));
            return malformed(reason);
        }
        view(bytes, place.start, tensor)
    })
}

/// Every entry is one that torch writes beside tensors.
fn check_entries(bytes: &[u8], entries: &Entries, root: &str) -> Result<(), Fault> {
    for (name, place) in entries {
        let Some(inner) = name.strip_prefix(root) else {
            return malformed(format!("`{}` lies outside of `{root}`", short(name)));
        };
        if inner == "byteorder" && bytes[place.clone()] != *b"little" {
            return malformed("numbers in another byte order than this machine's");
        }
        let known = inner == "data.pkl" || inner.starts_with("data/") || BESIDE.contains(&inner);
        if !known {
            let reason = format!("it holds `{}`, which is no tensor: a program?", short(name));
            return Err(Fault::Refused(reason, CONVERT));
        }
    }
    Ok(())
}

fn view(bytes: &Bytes, start: usize, tensor: &TensorRef<'_>) -> Result<Stored, Fault> {
    let TensorRef { storage, offset, shape, strides } = tensor;
    let storage_place = (bytes, start, storage.count);
    Stored::strided(storage_place, storage.kind, (*offset, shape.clone(), strides.clone()))
}

/// A file of before torch 1.6: pickles one after another, then the storages.
pub(super) fn read_legacy(bytes: &Bytes) -> Result<Contents, Fault> {
    // Storages follow the pickles: those alone are bounded.
    let pickles = &bytes[..bytes.len().min(MAX_PICKLE)];
    let mut cursor = Cursor::starting(pickles, LEGACY_MAGIC.len());
    if !matches!(pickle::read(&mut cursor)?.root, Value::Int(LEGACY_PROTOCOL)) {
        return malformed(format!("a legacy file of another protocol than {LEGACY_PROTOCOL}"));
    }
    let system = pickle::read(&mut cursor)?;
    let little = match system.object(system.root) {
        Some(Object::Dict { items, .. }) => items.iter().any(|(key, value)| {
            matches!((key, value), (Value::Text("little_endian"), Value::Bool(true)))
        }),
        _ => false,
    };
    if !little {
        return malformed("numbers in another byte order than this machine's");
    }
    let unpickled = pickle::read(&mut cursor)?;
    let keys = pickle::read(&mut cursor)?;
    let storages = legacy_storages(bytes, cursor.position(), &unpickled, &keys)?;
    flatten(&unpickled, &mut |tensor| {
        let key = tensor.storage.key;
        match storages.get(key) {
            Some(start) => view(bytes, *start, tensor),
            None => malformed(format!("storage `{}` is missing", short(key))),
        }
    })
}

/// Where each storage's numbers begin: behind their count, in the order of the keys.
fn legacy_storages<'a>(
    bytes: &[u8],
    start: usize,
    unpickled: &Unpickled<'a>,
    keys: &Unpickled<'a>,
) -> Result<HashMap<&'a str, usize>, Fault> {
    let Some(Object::List(keys)) = keys.object(keys.root) else {
        return malformed("a legacy file without a list of storages");
    };
    let mut types: HashMap<&str, (StoredType, usize)> = HashMap::new();
    for storage in unpickled.storages() {
        let about = (storage.kind, storage.count);
        if types.insert(storage.key, about).is_some_and(|before| before != about) {
            return malformed(format!("storage `{}` has two types or sizes", short(storage.key)));
        }
    }
    let mut cursor = Cursor::starting(bytes, start);
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = *key else { return malformed("a storage's key is no text") };
        let Some((kind, count)) = types.get(key) else {
            return malformed(format!("storage `{}` belongs to no tensor", short(key)));
        };
        let here = cursor.size()?;
        if here != *count {
            let reason = format!("storage `{}` has {here} numbers, not {count}", short(key));
            return malformed(reason);
        }
        if storages.insert(key, cursor.position()).is_some() {
            return malformed(format!("storage `{}` is there twice", short(key)));
        }
        cursor.take(byte_count(*kind, &[*count])?)?;
    }
    match cursor.left() {
        0 => Ok(storages),
        left => malformed(format!("{left} bytes behind the last storage")),
    }
}

/// How a tensor of the pickle becomes one of the file.
type Locate<'f, 'a> = &'f mut dyn FnMut(&TensorRef<'a>) -> Result<Stored, Fault>;

/// Dictionaries in dictionaries as names with dots.
struct Flattening<'f, 'a> {
    unpickled: &'f Unpickled<'a>,
    locate: Locate<'f, 'a>,
    contents: Contents,
    visits: usize,
    names: usize,
}

fn flatten<'f, 'a>(
    unpickled: &'f Unpickled<'a>,
    locate: Locate<'f, 'a>,
) -> Result<Contents, Fault> {
    let contents = Contents::default();
    let mut flattening = Flattening { unpickled, locate, contents, visits: 0, names: 0 };
    match unpickled.object(unpickled.root) {
        Some(Object::Dict { .. }) => flattening.visit("", unpickled.root, 0)?,
        Some(Object::Tensor(_)) => flattening.visit("tensor", unpickled.root, 0)?,
        _ => return malformed("the pickle is neither a dictionary nor a tensor"),
    }
    Ok(flattening.contents)
}

impl<'a> Flattening<'_, 'a> {
    fn visit(&mut self, name: &str, value: Value<'a>, depth: usize) -> Result<(), Fault> {
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return malformed(format!("`{}` is nested too deep or too often", short(name)));
        }
        if name.len() > MAX_NAME {
            return malformed(format!("`{}` is a name of {} bytes", short(name), name.len()));
        }
        let unpickled = self.unpickled;
        match unpickled.object(value) {
            Some(Object::Dict { items, .. }) => {
                for (key, value) in items {
                    let key = key_text(*key)?;
                    let inner = if name.is_empty() { key } else { format!("{name}.{key}") };
                    self.visit(&inner, *value, depth + 1)?;
                }
            }
            Some(Object::List(parts) | Object::Tuple(parts)) => {
                for (i, part) in parts.iter().enumerate() {
                    self.visit(&format!("{name}.{i}"), *part, depth + 1)?;
                }
            }
            Some(Object::Tensor(tensor)) => {
                self.check_name(name)?;
                let stored = (self.locate)(tensor).map_err(|fault| fault.about(name))?;
                self.contents.tensors.insert(name.to_string(), stored);
            }
            Some(Object::Storage(_)) => {
                let reason = format!("`{}` is a storage without a tensor", short(name));
                return Err(Fault::Refused(reason, CONVERT));
            }
            None => {
                self.check_name(name)?;
                self.contents.metadata.insert(name.to_string(), scalar_text(value));
            }
        }
        Ok(())
    }

    /// A name is new, and not one too many.
    fn check_name(&mut self, name: &str) -> Result<(), Fault> {
        let Contents { tensors, metadata } = &self.contents;
        self.names += name.len();
        if tensors.contains_key(name) || metadata.contains_key(name) {
            return malformed(format!("`{}` is there twice", short(name)));
        }
        if self.names > MAX_NAMES {
            return malformed(format!("names of more than {MAX_NAMES} bytes"));
        }
        if tensors.len() + metadata.len() >= MAX_TENSORS {
            return malformed(format!("more than {MAX_TENSORS} values"));
        }
        Ok(())
    }
}

fn key_text(key: Value<'_>) -> Result<String, Fault> {
    match key {
        Value::Text(text) if text.len() <= MAX_NAME => Ok(text.to_string()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Global(Global::ModelCheckpoint) => Ok("ModelCheckpoint".to_string()),
        _ => malformed("a dictionary with a key that is neither a short text nor a number"),
    }
}

/// A value that is no tensor, as text.
fn scalar_text(value: Value<'_>) -> String {
    match value {
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => short(text),
        Value::Long(bytes) => format!("a number of {} bytes", bytes.len()),
        Value::Global(global) => format!("{global:?}"),
        Value::None | Value::Object(_) => "none".to_string(),
    }
}
