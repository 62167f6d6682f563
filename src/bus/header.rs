//! Names of headers: static where nearly every record carries them, so that reading one takes no memory for them.

use std::borrow::Cow;

pub type HeaderName = Cow<'static, str>;

/// Those of `envelope`'s records. A name that is missing here costs an allocation, nothing else.
const USUAL: [&str; 14] = [
    "v",
    "kind",
    "id",
    "created_ms",
    "expires_ms",
    "priority",
    "region",
    "again",
    "stream",
    "pos",
    "prev",
    "user",
    "collapse_key",
    "answered",
];

pub fn name_of(text: &str) -> HeaderName {
    match USUAL.into_iter().find(|usual| *usual == text) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(text.to_owned()),
    }
}
