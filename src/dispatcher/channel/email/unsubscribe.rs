//! One click and no more mails of a kind (RFC 2369, RFC 8058).
//!
//! Invariants:
//! * a link says whose mails of which type it ends, signed: nobody makes one for another;
//! * it works as long as its key is there, without a login: whoever has the mail may end it, and can do nothing else;
//! * looking at it changes nothing: what guards mailboxes opens every link.

use super::signing_keys;
use crate::{
    config::{self, ConfigError},
    ids::{NotificationId, UserId},
};
use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

/// Path of every link, below the address that the configuration names.
pub const PATH: &str = "/unsubscribe/";

const KEY: &str = "email.unsubscribe_key_file";
/// Begins what is signed, so that the key may sign something else one day.
const PURPOSE: &str = "unsubscribe.2\n";
/// Of links of earlier releases, which do not say in which mail they stand.
const PURPOSE_EARLIER: &str = "unsubscribe.1\n";
const TAG_BYTES: usize = 32;

pub struct Unsubscribe {
    /// Without a slash at its end.
    url: String,
    /// The first one signs, each is good.
    keys: ArcSwap<Vec<hmac::Key>>,
}

/// Whose mails are to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub user: UserId,
    /// What the mail told of; `None`: of an earlier release.
    pub mail: Option<NotificationId>,
    pub notification_type: String,
}

impl Unsubscribe {
    /// `None` where mails have no link.
    pub fn from_config(config: &config::Email) -> Result<Option<Unsubscribe>, ConfigError> {
        let (Some(url), Some(keys)) = (&config.unsubscribe_url, keys(config)?) else {
            return Ok(None);
        };
        Ok(Some(Unsubscribe {
            url: url.trim_end_matches('/').to_owned(),
            keys: ArcSwap::from_pointee(keys),
        }))
    }

    /// Reads the keys again; what can't be read changes nothing.
    pub fn reload(&self, config: &config::Email) -> Result<(), ConfigError> {
        if let Some(keys) = keys(config)? {
            self.keys.store(keys.into());
        }
        Ok(())
    }

    pub fn link(&self, wish: &Wish) -> String {
        let told = wish.told();
        let keys = self.keys.load();
        let tag = hmac::sign(&keys[0], &[wish.purpose(), told.as_bytes()].concat());
        let signed = [tag.as_ref(), told.as_bytes()].concat();
        let token = BASE64_URL_SAFE_NO_PAD.encode(signed);
        format!("{}{PATH}{token}", self.url)
    }

    /// What stands behind [`PATH`]; `None` if we did not write it.
    pub fn read(&self, token: &str) -> Option<Wish> {
        let signed = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (tag, told) = signed.split_at_checked(TAG_BYTES)?;
        let text = std::str::from_utf8(told).ok()?;
        let keys = self.keys.load();
        let is_ours = |wish: &Wish| {
            let told = [wish.purpose(), told].concat();
            // In a time that does not depend on the tag.
            let is_by = |key| hmac::verify(key, &told, tag).is_ok();
            keys.iter().any(is_by)
        };
        let wishes = [Wish::read(text), Wish::read_earlier(text)];
        wishes.into_iter().flatten().find(is_ours)
    }
}

impl Wish {
    fn purpose(&self) -> &'static [u8] {
        match self.mail {
            Some(_) => PURPOSE.as_bytes(),
            None => PURPOSE_EARLIER.as_bytes(),
        }
    }

    /// A user's id has no control characters: it ends where the line does.
    fn told(&self) -> String {
        let (user, of_type) = (&self.user, &self.notification_type);
        match self.mail {
            Some(mail) => format!("{user}\n{mail}\n{of_type}"),
            None => format!("{user}\n{of_type}"),
        }
    }

    fn read(told: &str) -> Option<Wish> {
        let (user, rest) = told.split_once('\n')?;
        let (mail, of_type) = rest.split_once('\n')?;
        Some(Wish {
            user: user.parse().ok()?,
            mail: Some(mail.parse().ok()?),
            notification_type: of_type.to_owned(),
        })
    }

    fn read_earlier(told: &str) -> Option<Wish> {
        let (user, of_type) = told.split_once('\n')?;
        Some(Wish {
            user: user.parse().ok()?,
            mail: None,
            notification_type: of_type.to_owned(),
        })
    }
}

fn keys(config: &config::Email) -> Result<Option<Vec<hmac::Key>>, ConfigError> {
    signing_keys(KEY, config.unsubscribe_key_file.as_deref(), |line| {
        Ok(line.as_bytes().to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn with_keys(keys: &[&str]) -> Unsubscribe {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", keys.join("\n")).unwrap();
        let config = config::Email {
            unsubscribe_url: Some("https://shop.example/n/".into()),
            unsubscribe_key_file: Some(file.path().to_owned()),
            ..config::Email::default()
        };
        Unsubscribe::from_config(&config).unwrap().unwrap()
    }

    const OLD: &str = "one-that-nobody-guesses-in-a-hurry";
    const NEW: &str = "another-that-nobody-guesses-at-all";

    fn wish(user: &str, notification_type: &str) -> Wish {
        Wish {
            user: user.parse().unwrap(),
            mail: Some(NotificationId::generate()),
            notification_type: notification_type.into(),
        }
    }

    fn token(link: &str) -> &str {
        link.rsplit('/').next().unwrap()
    }

    #[test]
    fn a_link_says_what_was_wished_whatever_is_in_it() {
        let unsubscribe = with_keys(&[OLD]);
        let long = "ü".repeat(64);
        for wish in [
            wish("42", "news"),
            wish("a b/ü", "x\ny"),
            wish(&long, &long),
        ] {
            let link = unsubscribe.link(&wish);
            assert!(link.starts_with("https://shop.example/n/unsubscribe/"));
            assert!(link.len() < 900, "a line of a mail: {}", link.len());
            assert_eq!(unsubscribe.read(token(&link)), Some(wish.clone()));
            let earlier = Wish { mail: None, ..wish };
            let link = unsubscribe.link(&earlier);
            assert_eq!(unsubscribe.read(token(&link)), Some(earlier));
        }
    }

    #[test]
    fn what_was_changed_or_signed_by_another_is_nothing() {
        let unsubscribe = with_keys(&[OLD]);
        let link = unsubscribe.link(&wish("42", "news"));
        let good = BASE64_URL_SAFE_NO_PAD.decode(token(&link)).unwrap();
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(unsubscribe.read(&changed), None, "{at}");
        }
        for token in ["", "x", token(&with_keys(&[NEW]).link(&wish("42", "news")))] {
            assert_eq!(unsubscribe.read(token), None);
        }
    }

    #[test]
    fn an_old_key_below_a_new_one_is_still_good() {
        let old = with_keys(&[OLD]).link(&wish("42", "news"));
        let both = with_keys(&[NEW, OLD]);
        assert!(both.read(token(&old)).is_some());
        let new = both.link(&wish("42", "news"));
        assert!(with_keys(&[NEW]).read(token(&new)).is_some());
        assert!(with_keys(&[OLD]).read(token(&new)).is_none());
    }
}
