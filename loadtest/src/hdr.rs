//! Histograms as text that loses nothing, so that results of several hosts add up exactly.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2Serializer},
};

/// µs from 1 to 10 minutes, with three digits.
pub fn exact() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds")
}

/// The same with two digits: one for every second of a run.
pub fn rough() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("valid bounds")
}

/// Base64 of the format all HdrHistogram libraries read (V2).
pub fn to_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2Serializer::new().serialize(histogram, &mut bytes);
    written.expect("memory takes it");
    STANDARD.encode(bytes)
}

pub fn from_text(text: &str) -> Result<Histogram<u64>> {
    let bytes = STANDARD.decode(text).context("no base64")?;
    let read = Deserializer::new().deserialize(&mut bytes.as_slice());
    read.context("no HdrHistogram")
}

/// For fields of a result: absent where nothing was recorded.
pub mod text {
    use super::{Histogram, from_text, to_text};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(of: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        match of.is_empty() {
            true => to.serialize_none(),
            false => to.serialize_str(&to_text(of)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        match Option::<String>::deserialize(from)? {
            None => Ok(super::exact()),
            Some(text) => from_text(&text).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_as_text_and_adds_up() {
        let (mut one, mut two) = (exact(), exact());
        for us in [3, 500, 500, 1_000_000] {
            one.saturating_record(us);
        }
        two.saturating_record(77);
        let mut read = from_text(&to_text(&one)).unwrap();
        assert_eq!(read, one);
        read.add(from_text(&to_text(&two)).unwrap()).unwrap();
        assert_eq!((read.len(), read.count_at(500)), (5, 2));
        assert!(from_text("bad").is_err());
    }
}
