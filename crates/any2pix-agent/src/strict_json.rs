//! JSON from outside, strictly: no key twice, no nesting without end.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;

/// Parses one document; the error says what is wrong and in which column.
fn parse(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| error.to_string().replace(" at line 1 column ", ", column "))
}

/// Parses one object of which the values of `objects`, where they are given, are objects too:
/// serde would take a list for a structure, by position.
pub(crate) fn parse_object(text: &str, objects: &[&str]) -> Result<Value, String> {
    let value = parse(text)?;
    if !value.is_object() {
        return Err("expected an object, `{…}`".to_string());
    }
    match objects.iter().find(|key| value.get(key).is_some_and(|value| !value.is_object())) {
        Some(key) => Err(format!("`{key}`: expected an object, `{{…}}`")),
        None => Ok(value),
    }
}

/// A value at some depth.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice")));
            }
            map.insert(key, access.next_value_seed(inner)?);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_is_what_serde_json_reads() {
        let text = r#"{"a": [1, -2, 1.5e3, "x\u00e9\ud83d\ude00", null, true], "b": {"a": {}}}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn each_fault_is_named() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(&deep(64)).is_ok());
        let cases = [
            (r#"{"a": 1, "a": 2}"#.to_string(), "`a` stands twice"),
            (r#"{"a": {"b": 1, "b": 2}}"#.to_string(), "`b` stands twice"),
            (r#"{"a": 1,}"#.to_string(), "trailing comma, column 9"),
            (r#"{"a": NaN}"#.to_string(), "column 7"),
            (r#"{"a": 1e400}"#.to_string(), "out of range"),
            (r#"{"a": 1} {"#.to_string(), "trailing characters"),
            (r#"{"a": "\ud800"}"#.to_string(), "column"),
            (r#"{"a": []}"#.to_string(), "`a`: expected an object"),
            (r#"["a"]"#.to_string(), "expected an object"),
            (deep(65), "nested deeper than 64"),
            (deep(100_000), "nested deeper than 64"),
        ];
        for (text, words) in cases {
            let message = parse_object(&text, &["a"]).unwrap_err();
            assert!(message.contains(words), "{words}: {message}");
        }
    }
}
