//! A JSON object taken apart field by field, so that a refusal can name the field.

use super::request::Refusal;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};

/// What has not been taken yet.
pub struct Fields<'b> {
    left: BTreeMap<String, &'b RawValue>,
    /// The field whose value this object is.
    within: Option<Cow<'static, str>>,
}

impl<'b> Fields<'b> {
    pub fn read(body: &'b [u8]) -> Result<Fields<'b>, Refusal> {
        let pairs = serde_json::from_slice(body);
        let pairs: Pairs<'b> = pairs.map_err(|error| Refusal::BadJson(error.to_string()))?;
        Fields::of(pairs, None)
    }

    /// The object that is the value of a field.
    pub fn within(
        field: impl Into<Cow<'static, str>>,
        object: &'b RawValue,
        expected: &str,
    ) -> Result<Fields<'b>, Refusal> {
        let field = field.into();
        let pairs: Result<Pairs<'b>, _> = serde_json::from_str(object.get());
        match pairs {
            Ok(pairs) => Fields::of(pairs, Some(field)),
            Err(_) => Err(Refusal::field(field, format!("is not {expected}"))),
        }
    }

    /// Of two fields of one name nobody knows which was meant.
    fn of(
        Pairs(pairs): Pairs<'b>,
        within: Option<Cow<'static, str>>,
    ) -> Result<Fields<'b>, Refusal> {
        let mut fields = Fields {
            left: BTreeMap::new(),
            within,
        };
        for (field, value) in pairs {
            if fields.left.contains_key(&field) {
                return Err(Refusal::field(fields.path(&field), "is given twice"));
            }
            fields.left.insert(field, value);
        }
        Ok(fields)
    }

    /// Takes a field out; `null` is "not given".
    pub fn take<T: Deserialize<'b>>(
        &mut self,
        field: &str,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        match self.left.remove(field) {
            Some(raw) if raw.get() != "null" => serde_json::from_str(raw.get())
                .map(Some)
                .map_err(|_| Refusal::field(self.path(field), format!("is not {expected}"))),
            _ => Ok(None),
        }
    }

    pub fn demand<T: Deserialize<'b>>(
        &mut self,
        field: &str,
        expected: &str,
    ) -> Result<T, Refusal> {
        self.take(field, expected)?
            .ok_or_else(|| Refusal::field(self.path(field), "is missing"))
    }

    /// Nothing may be left: a misspelt name would otherwise be lost in silence.
    pub fn finish(self, of: &str) -> Result<(), Refusal> {
        match self.left.keys().next() {
            Some(unknown) => Err(Refusal::field(
                self.path(unknown),
                format!("is no field of {of}"),
            )),
            None => Ok(()),
        }
    }

    fn path(&self, field: &str) -> String {
        match &self.within {
            Some(outer) => format!("{outer}.{field}"),
            None => field.to_owned(),
        }
    }
}

/// An object's fields as they come, repeats included.
struct Pairs<'b>(Vec<(String, &'b RawValue)>);

impl<'de: 'b, 'b> Deserialize<'de> for Pairs<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Object).map(Pairs)
    }
}
