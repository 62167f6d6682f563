//! A JSON object taken apart field by field, so that a refusal can name the field.

use super::request::Refusal;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What has not been taken yet.
pub struct Fields<'b>(BTreeMap<String, &'b RawValue>);

impl<'b> Fields<'b> {
    pub fn read(body: &'b [u8]) -> Result<Fields<'b>, Refusal> {
        serde_json::from_slice(body)
            .map(Fields)
            .map_err(|error| Refusal::BadJson(error.to_string()))
    }

    /// Takes a field out; `null` is "not given".
    pub fn take<T: DeserializeOwned>(
        &mut self,
        field: &'static str,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        match self.0.remove(field) {
            Some(raw) if raw.get() != "null" => serde_json::from_str(raw.get())
                .map(Some)
                .map_err(|_| Refusal::field(field, format!("is not {expected}"))),
            _ => Ok(None),
        }
    }

    pub fn demand<T: DeserializeOwned>(
        &mut self,
        field: &'static str,
        expected: &str,
    ) -> Result<T, Refusal> {
        self.take(field, expected)?
            .ok_or_else(|| Refusal::field(field, "is missing"))
    }

    /// Nothing may be left: a misspelt name would otherwise be lost in silence.
    pub fn finish(self, of: &str) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            Some(unknown) => Err(Refusal::field(unknown, format!("is no field of {of}"))),
            None => Ok(()),
        }
    }
}
