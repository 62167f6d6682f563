//! A JSON object taken apart field by field, so that a refusal can name the field.

use super::request::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What has not been taken yet.
pub struct Fields<'b> {
    left: BTreeMap<String, &'b RawValue>,
    /// The field whose value this object is.
    within: Option<&'static str>,
}

impl<'b> Fields<'b> {
    pub fn read(body: &'b [u8]) -> Result<Fields<'b>, Refusal> {
        let left = serde_json::from_slice(body);
        let within = None;
        left.map(|left| Fields { left, within })
            .map_err(|error| Refusal::BadJson(error.to_string()))
    }

    /// The object that is the value of a field.
    pub fn within(
        field: &'static str,
        object: &'b RawValue,
        expected: &str,
    ) -> Result<Fields<'b>, Refusal> {
        let left = serde_json::from_str(object.get());
        let within = Some(field);
        left.map(|left| Fields { left, within })
            .map_err(|_| Refusal::field(field, format!("is not {expected}")))
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
        match self.within {
            Some(outer) => format!("{outer}.{field}"),
            None => field.to_owned(),
        }
    }
}
