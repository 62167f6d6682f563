//! Texts by type, channel and locale, from a directory. A template gives what its channel shows; what has none is shown
//! as its producer wrote it.
//!
//! | file | |
//! |---|---|
//! | `{type}/{channel}.{locale}.title`, `….body` | text, in the place of the request's `title` and `body` |
//! | `{type}/email.{locale}.html` | the mail's HTML, beside its text; what is filled in is escaped |
//! | `_{anything}/…` | for `include` and `extends` only, by its path from the directory |
//!
//! Invariants:
//! * all of them were read and parsed before any is used; of a new set with a fault nothing is taken;
//! * a render is bounded in steps, in depth and in what it gives;
//! * a name that is not known is an error (but to ask for it by `if` is none), never nothing: a mail with a hole would
//!   be sent to everyone.

mod files;
mod render;

use crate::{
    config::{self, ConfigError},
    envelope::{Channel, Content, check_content_size},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use minijinja::Environment;
use std::{borrow::Cow, collections::HashMap, sync::Arc};

pub use render::{RenderError, Subject};

/// A notification as a channel shows it.
#[derive(Debug)]
pub struct Shown<'a> {
    /// With the title and the body of the templates, where there are any.
    pub content: Cow<'a, Content>,
    pub html: Option<String>,
}

/// What is in force. Cheap to clone; [`Templates::reload`] shows in every clone.
#[derive(Clone, Default)]
pub struct Templates(Arc<ArcSwap<Set>>);

/// One reading of a directory.
#[derive(Default)]
struct Set {
    environment: Environment<'static>,
    by_type: HashMap<String, HashMap<Channel, Locales>>,
    fallback_locale: String,
}

/// Of a type and a channel: its texts by locale in lower case.
type Locales = HashMap<String, Parts>;

/// Names of templates.
#[derive(Debug, Default)]
struct Parts {
    title: Option<String>,
    body: Option<String>,
    html: Option<String>,
}

impl Shown<'_> {
    /// With its JSON, for a row; `None`: it is what was sent.
    pub fn in_row(self) -> Result<Option<(Content, Bytes)>, RenderError> {
        let Cow::Owned(content) = self.content else {
            return Ok(None);
        };
        let json = serde_json::to_vec(&content).expect("content is plain data");
        check_content_size(&json).map_err(|reason| RenderError {
            place: content.notification_type.clone(),
            kind: "gives more than a row takes".into(),
            reason,
        })?;
        Ok(Some((content, json.into())))
    }
}

impl Templates {
    /// Reads them; without a directory there are none.
    pub fn from_config(config: &config::Templates) -> Result<Templates, ConfigError> {
        let set = files::read(config)?;
        Ok(Templates(Arc::new(ArcSwap::from_pointee(set))))
    }

    /// Those of the directory as it is now; at a fault those of before stay.
    pub fn reload(&self, config: &config::Templates) -> Result<(), ConfigError> {
        self.0.store(Arc::new(files::read(config)?));
        Ok(())
    }

    /// In the language that comes nearest.
    pub fn show<'a>(
        &self,
        subject: &Subject<'a>,
        channel: Channel,
        locale: Option<&str>,
    ) -> Result<Shown<'a>, RenderError> {
        let set = self.0.load();
        let of_type = set.by_type.get(&subject.content.notification_type);
        let locales = of_type.and_then(|channels| channels.get(&channel));
        let found = locales.and_then(|locales| {
            nearest(locales, locale).or_else(|| nearest(locales, Some(&set.fallback_locale)))
        });
        let Some((locale, parts)) = found else {
            return Ok(Shown {
                content: Cow::Borrowed(subject.content),
                html: None,
            });
        };
        let rendered = render::render(&set.environment, parts, subject, channel, &locale)?;
        let mut content = subject.content.clone();
        content.title = rendered.title.or(content.title);
        content.body = rendered.body.or(content.body);
        Ok(Shown {
            content: Cow::Owned(content),
            html: rendered.html,
        })
    }
}

/// `de-AT`, else `de`.
fn nearest<'a>(locales: &'a Locales, wanted: Option<&str>) -> Option<(String, &'a Parts)> {
    let mut wanted = wanted?.to_ascii_lowercase();
    loop {
        if let Some(parts) = locales.get(&wanted) {
            return Some((wanted, parts));
        }
        wanted.truncate(wanted.rfind('-')?);
    }
}

#[cfg(test)]
mod tests;
