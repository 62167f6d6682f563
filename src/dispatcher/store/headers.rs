//! Headers of a record that is kept to be put on the bus later: one text, the same in every store.

use crate::bus::{HeaderName, Record, header_name};
use bytes::Bytes;

pub fn write(record: &Record) -> String {
    let headers: Vec<(&str, &[u8])> = record
        .headers
        .iter()
        .map(|(name, value)| (name.as_ref(), value.as_ref()))
        .collect();
    serde_json::to_string(&headers).expect("headers are plain data")
}

/// `None` where the text is none that [`write`] makes.
pub fn read(text: &str) -> Option<Vec<(HeaderName, Bytes)>> {
    let headers: Vec<(String, Vec<u8>)> = serde_json::from_str(text).ok()?;
    let named = headers
        .into_iter()
        .map(|(name, value)| (header_name(&name), value.into()));
    Some(named.collect())
}
