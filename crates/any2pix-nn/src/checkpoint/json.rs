//! JSON of files that are not trusted: an object with the same key twice is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::{Fault, malformed};

/// A value whose form its key may tell.
pub(super) trait Keyed: Sized {
    fn value<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error>;
}

impl Keyed for String {
    fn value<'de, A: MapAccess<'de>>(_: &str, map: &mut A) -> Result<Self, A::Error> {
        map.next_value()
    }
}

/// An object without duplicate keys.
pub(super) struct Object<T>(pub(super) BTreeMap<String, T>);

impl<'de, T: Keyed> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);

        impl<'de, T: Keyed> Visitor<'de> for Keys<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<T>, A::Error> {
                let mut object = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = T::value(&key, &mut map)?;
                    if object.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{}` is there twice", short(&key))));
                    }
                    object.insert(key, value);
                }
                Ok(Object(object))
            }
        }

        deserializer.deserialize_map(Keys(PhantomData))
    }
}

/// A name as an error shows it.
pub(super) fn short(name: &str) -> String {
    let mut shown: String = name.chars().take(100).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    shown
}

pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Fault> {
    match serde_json::from_slice(text) {
        Ok(value) => Ok(value),
        Err(error) => malformed(format!("its JSON: {error}")),
    }
}
