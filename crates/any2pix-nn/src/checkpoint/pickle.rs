//! Pickles of tensors, read without running anything.
//!
//! A pickle is a program. This reader knows the few instructions and the few names that
//! `torch.save` writes for tensors in dictionaries, and refuses every other one by its name.
//! What it builds lies in one flat table, so that neither depth nor cycles can hurt.

use std::collections::BTreeMap;

use super::bytes::Cursor;
use super::error::{Fault, malformed};
use super::json::short;
use super::stored::{MAX_RANK, StoredType};

/// Most instructions of one pickle; a tensor takes about thirty.
const MAX_INSTRUCTIONS: usize = 2_000_000;

/// Most marks that are open at once.
const MAX_MARKS: usize = 256;

/// Longest text.
const MAX_TEXT: usize = 1 << 20;

/// Most arguments of a call.
const MAX_ARGUMENTS: usize = 8;

/// Highest protocol that is known.
const MAX_PROTOCOL: u8 = 5;

/// What to do about a pickle that is refused.
pub(super) const CONVERT: &str =
    "only tensors in plain dictionaries are read: convert it to safetensors where you trust it";

fn refuse<T>(reason: String) -> Result<T, Fault> {
    Err(Fault::Refused(format!("refused: {reason}"), CONVERT))
}

/// A name that a pickle may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildParameter,
    Size,
    Storage(StoredType),
    /// A class that published files name as the key of its figures; it is never made.
    ModelCheckpoint,
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensorV2,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") => {
                Self::ModelCheckpoint
            }
            ("torch", storage) => Self::Storage(match storage {
                "BoolStorage" => StoredType::Bool,
                "ByteStorage" => StoredType::U8,
                "CharStorage" => StoredType::I8,
                "ShortStorage" => StoredType::I16,
                "IntStorage" => StoredType::I32,
                "LongStorage" => StoredType::I64,
                "HalfStorage" => StoredType::F16,
                "BFloat16Storage" => StoredType::BF16,
                "FloatStorage" => StoredType::F32,
                "DoubleStorage" => StoredType::F64,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// A value on the stack; what has parts is a place in the table of objects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number that no machine word holds, as its little-endian bytes.
    Long(&'a [u8]),
    Float(f64),
    Text(&'a str),
    Global(Global),
    Object(usize),
}

/// A storage of the file, by its key there.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageRef<'a> {
    pub(super) kind: StoredType,
    pub(super) key: &'a str,
    /// Numbers in it.
    pub(super) count: usize,
}

/// A tensor: a view into a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRef<'a> {
    pub(super) storage: StorageRef<'a>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What has parts, or is made from them.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict { items: Vec<(Value<'a>, Value<'a>)>, ordered: bool },
    Storage(StorageRef<'a>),
    Tensor(TensorRef<'a>),
}

/// What a pickle stands for.
pub(super) struct Unpickled<'a> {
    pub(super) root: Value<'a>,
    objects: Vec<Object<'a>>,
}

impl<'a> Unpickled<'a> {
    /// The object that a value is, if it has parts.
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(at) => self.objects.get(at),
            _ => None,
        }
    }

    /// Every storage that is referred to, once for each time.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef<'a>> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}

/// Runs the pickle at the cursor up to its end.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Unpickled<'a>, Fault> {
    let mut machine = Machine::default();
    for _ in 0..MAX_INSTRUCTIONS {
        if let Some(root) = machine.step(cursor)? {
            return Ok(Unpickled { root, objects: machine.objects });
        }
    }
    malformed(format!("a pickle of more than {MAX_INSTRUCTIONS} instructions"))
}

#[derive(Default)]
struct Machine<'a> {
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() > MAX_TEXT {
        return malformed(format!("a text of {} bytes; {MAX_TEXT} are the most", bytes.len()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => malformed(format!("a text that is not UTF-8: {error}")),
    }
}

/// A little-endian number in two's complement of any length.
fn long(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    let sign = if bytes.last().is_some_and(|b| *b >= 128) { 0xff } else { 0 };
    let mut word = [sign; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(word))
}

impl<'a> Machine<'a> {
    /// One instruction; the result, when it was the last.
    fn step(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Value<'a>>, Fault> {
        let at = cursor.position();
        let code = cursor.u8()?;
        match code {
            b'.' => return self.finish().map(Some),
            0x80 => {
                let version = cursor.u8()?;
                if version > MAX_PROTOCOL {
                    return malformed(format!("a pickle of protocol {version}"));
                }
            }
            0x95 => {
                cursor.u64()?;
            }
            b'(' => {
                if self.marks.len() >= MAX_MARKS {
                    return malformed(format!("a pickle nested deeper than {MAX_MARKS}"));
                }
                self.marks.push(self.stack.len());
            }
            b'c' => {
                let (module, name) = (cursor.line()?, cursor.line()?);
                self.global(text(module)?, text(name)?)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name)?,
                    _ => return malformed("a name that is not a text"),
                }
            }
            b'q' => self.remember(u32::from(cursor.u8()?))?,
            b'r' => self.remember(cursor.u32()?)?,
            0x94 => {
                // The memo never has more entries than instructions were run.
                let next = self.memo.len() as u32;
                self.remember(next)?;
            }
            b'h' => self.recall(u32::from(cursor.u8()?))?,
            b'j' => self.recall(cursor.u32()?)?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            _ => {
                if !self.scalar(code, cursor)? && !self.container(code)? {
                    let shown = char::from(code).escape_default();
                    return refuse(format!("the pickle has instruction `{shown}` at {at}"));
                }
            }
        }
        Ok(None)
    }

    /// Instructions that push a value of their own.
    fn scalar(&mut self, code: u8, cursor: &mut Cursor<'a>) -> Result<bool, Fault> {
        let counted = |cursor: &mut Cursor<'a>, length: usize| text(cursor.take(length)?);
        let value = match code {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(cursor.u32()?.cast_signed())),
            b'K' => Value::Int(i64::from(cursor.u8()?)),
            b'M' => Value::Int(i64::from(cursor.u16()?)),
            0x8a => {
                let length = usize::from(cursor.u8()?);
                long(cursor.take(length)?)
            }
            b'G' => Value::Float(f64::from_bits(cursor.u64()?.swap_bytes())),
            b'X' => {
                let length = cursor.u32()? as usize;
                Value::Text(counted(cursor, length)?)
            }
            0x8c | b'U' => {
                let length = usize::from(cursor.u8()?);
                Value::Text(counted(cursor, length)?)
            }
            0x8d => {
                let length = cursor.size()?;
                Value::Text(counted(cursor, length)?)
            }
            _ => return Ok(false),
        };
        self.stack.push(value);
        Ok(true)
    }

    /// Instructions that make or fill tuples, lists and dictionaries.
    fn container(&mut self, code: u8) -> Result<bool, Fault> {
        match code {
            b')' => self.push(Object::Tuple(Vec::new())),
            b']' => self.push(Object::List(Vec::new())),
            b'}' => self.push(Object::Dict { items: Vec::new(), ordered: false }),
            b't' => {
                let parts = self.since_mark()?;
                self.push(Object::Tuple(parts));
            }
            0x85..=0x87 => {
                let parts = self.last(usize::from(code - 0x84))?;
                self.push(Object::Tuple(parts));
            }
            b'a' => {
                let part = self.pop()?;
                self.list()?.push(part);
            }
            b'e' => {
                let parts = self.since_mark()?;
                self.list()?.extend(parts);
            }
            b's' => {
                let pair = self.last(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let pairs = self.since_mark()?;
                self.set_items(&pairs)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<Value<'a>, Fault> {
        let root = self.pop()?;
        match self.stack.is_empty() && self.marks.is_empty() {
            true => Ok(root),
            false => malformed("the pickle ends with values left over"),
        }
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    /// Values below the last mark belong to whoever set it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        match self.stack.len() > self.floor() {
            true => self.stack.pop().map_or_else(|| malformed("an empty stack"), Ok),
            false => malformed("the pickle takes from an empty stack"),
        }
    }

    fn last(&mut self, count: usize) -> Result<Vec<Value<'a>>, Fault> {
        match self.stack.len().checked_sub(count).filter(|at| *at >= self.floor()) {
            Some(at) => Ok(self.stack.split_off(at)),
            None => malformed("the pickle takes from an empty stack"),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => malformed("the pickle takes up to a mark that is not there"),
        }
    }

    fn top(&mut self) -> Result<Value<'a>, Fault> {
        match self.stack.last() {
            Some(top) if self.stack.len() > self.floor() => Ok(*top),
            _ => malformed("the pickle looks at an empty stack"),
        }
    }

    fn top_object(&mut self) -> Result<Option<&mut Object<'a>>, Fault> {
        Ok(match self.top()? {
            Value::Object(at) => self.objects.get_mut(at),
            _ => None,
        })
    }

    fn list(&mut self) -> Result<&mut Vec<Value<'a>>, Fault> {
        match self.top_object()? {
            Some(Object::List(parts)) => Ok(parts),
            _ => malformed("the pickle appends to what is not a list"),
        }
    }

    fn set_items(&mut self, flat: &[Value<'a>]) -> Result<(), Fault> {
        let Some(Object::Dict { items, .. }) = self.top_object()? else {
            return malformed("the pickle sets items of what is not a dictionary");
        };
        if !flat.len().is_multiple_of(2) {
            return malformed("the pickle sets a key without a value");
        }
        items.extend(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        match Global::named(module, name) {
            Some(global) => {
                self.stack.push(Value::Global(global));
                Ok(())
            }
            None => refuse(format!("the pickle refers to `{}.{}`", short(module), short(name))),
        }
    }

    fn remember(&mut self, place: u32) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), Fault> {
        match self.memo.get(&place) {
            Some(value) => {
                self.stack.push(*value);
                Ok(())
            }
            None => malformed(format!("the pickle recalls {place}, which it never kept")),
        }
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Object(at) => match self.objects.get(at) {
                Some(Object::Tuple(parts)) => Some(parts),
                _ => None,
            },
            _ => None,
        }
    }

    fn is_empty_dict(&self, value: Value<'a>) -> bool {
        let Value::Object(at) = value else { return matches!(value, Value::None) };
        matches!(self.objects.get(at), Some(Object::Dict { items, .. }) if items.is_empty())
    }

    /// Sizes, strides: whole numbers that are not negative.
    fn counts(&self, value: Value<'a>) -> Option<Vec<usize>> {
        let parts = self.tuple(value).filter(|parts| parts.len() <= MAX_RANK)?;
        parts.iter().map(|part| count(*part)).collect()
    }

    /// A call of one of the known names.
    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = function else {
            return refuse("the pickle calls what is not a known name".to_string());
        };
        let few = |arguments: &&[Value<'a>]| arguments.len() <= MAX_ARGUMENTS;
        let Some(arguments) = self.tuple(arguments).filter(few).map(<[_]>::to_vec) else {
            return malformed("the pickle calls without a short tuple of arguments");
        };
        match (function, arguments.as_slice()) {
            (Global::OrderedDict, []) => {
                self.push(Object::Dict { items: Vec::new(), ordered: true });
            }
            (Global::Size, [parts]) if self.counts(*parts).is_some() => self.stack.push(*parts),
            (Global::RebuildTensor, [storage, offset, shape, strides]) => {
                self.tensor(*storage, *offset, (*shape, *strides))?;
            }
            (Global::RebuildTensorV2, [storage, offset, shape, strides, Value::Bool(_), hooks])
                if self.is_empty_dict(*hooks) =>
            {
                self.tensor(*storage, *offset, (*shape, *strides))?;
            }
            (Global::RebuildParameter, [Value::Object(at), Value::Bool(_), hooks])
                if self.is_empty_dict(*hooks)
                    && matches!(self.objects.get(*at), Some(Object::Tensor(_))) =>
            {
                self.stack.push(Value::Object(*at));
            }
            _ => return refuse(format!("the pickle calls {function:?} in an unknown way")),
        }
        Ok(())
    }

    fn tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        (shape, strides): (Value<'a>, Value<'a>),
    ) -> Result<(), Fault> {
        let storage = match storage {
            Value::Object(at) => match self.objects.get(at) {
                Some(Object::Storage(storage)) => *storage,
                _ => return malformed("a tensor without a storage"),
            },
            _ => return malformed("a tensor without a storage"),
        };
        match (count(offset), self.counts(shape), self.counts(strides)) {
            (Some(offset), Some(shape), Some(strides)) => {
                self.push(Object::Tensor(TensorRef { storage, offset, shape, strides }));
                Ok(())
            }
            _ => malformed("a tensor of which size, stride or offset is negative or no number"),
        }
    }

    /// Attributes of an object. The one case of use: a module's versions beside its state.
    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let target = self.top()?;
        let versions = match state {
            Value::Object(at) => match self.objects.get(at) {
                Some(Object::Dict { items, .. }) => {
                    matches!(items.as_slice(), [] | [(Value::Text("_metadata"), _)])
                }
                _ => false,
            },
            _ => false,
        };
        let dictionary = match target {
            Value::Object(at) => {
                matches!(self.objects.get(at), Some(Object::Dict { ordered: true, .. }))
            }
            _ => false,
        };
        match versions && dictionary {
            true => Ok(()),
            false => refuse("the pickle sets attributes of an object".to_string()),
        }
    }

    /// `("storage", type, key, device, count)`, and in legacy files a view, which must be none.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let parts = self.tuple(id).unwrap_or_default();
        let storage = match *parts {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(kind)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(count),
                ref view @ ..,
            ] if matches!(view, [] | [Value::None]) => {
                usize::try_from(count).ok().map(|count| StorageRef { kind, key, count })
            }
            _ => None,
        };
        match storage {
            Some(storage) => {
                self.push(Object::Storage(storage));
                Ok(())
            }
            None => refuse("the pickle refers to something other than a storage".to_string()),
        }
    }
}

fn count(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(count) => usize::try_from(count).ok(),
        _ => None,
    }
}
