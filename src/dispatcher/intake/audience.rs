//! Whom a request names.

use super::request::Refusal;
use crate::{
    ids::{IdError, SegmentId, UserId},
    limits,
};
use serde::Serialize;
use std::collections::BTreeSet;

/// Whom a notification is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    User(UserId),
    /// Without repeats, in the order given.
    Users(Vec<UserId>),
    /// Uploaded before.
    Segment(SegmentId),
    All,
}

/// Exactly one is given.
pub fn read(
    user: Option<String>,
    users: Option<Vec<String>>,
    segment: Option<String>,
    all: bool,
) -> Result<Audience, Refusal> {
    match (user, users, segment, all) {
        (Some(user), None, None, false) => user
            .parse()
            .map(Audience::User)
            .map_err(|error| Refusal::field("target.user", error.to_string())),
        (None, Some(users), None, false) => list("target.users", users).map(Audience::Users),
        (None, None, Some(segment), false) => segment
            .parse()
            .map(Audience::Segment)
            .map_err(|error: IdError| Refusal::field("target.segment", error.to_string())),
        (None, None, None, true) => Ok(Audience::All),
        _ => Err(Refusal::field(
            "target",
            "names exactly one of `user`, `users`, `segment` and `all: true`",
        )),
    }
}

/// Without repeats.
pub fn list(field: &str, users: Vec<String>) -> Result<Vec<UserId>, Refusal> {
    if users.len() > limits::TARGET_USERS {
        return Err(Refusal::TooLarge {
            field: field.into(),
            problem: format!("at most {} users", limits::TARGET_USERS),
        });
    }
    if users.is_empty() {
        return Err(Refusal::field(field, "is empty"));
    }
    let mut seen = BTreeSet::new();
    let mut list = Vec::with_capacity(users.len());
    for (at, user) in users.into_iter().enumerate() {
        let user: UserId = user.parse().map_err(|error: IdError| {
            Refusal::field(format!("{field}[{at}]"), error.to_string())
        })?;
        if seen.insert(user.clone()) {
            list.push(user);
        }
    }
    Ok(list)
}

/// Of a broadcast, which users have one of these. `collapses`: it replaces an earlier one.
pub fn tags(
    audience: &Audience,
    asked: Option<Vec<String>>,
    collapses: bool,
) -> Result<Vec<String>, Refusal> {
    const FIELD: &str = "target.tags";
    let Some(asked) = asked else {
        return Ok(Vec::new());
    };
    if *audience != Audience::All {
        return Err(Refusal::field(FIELD, "is for `all`"));
    }
    // Whoever does not have the tag would lose the earlier one.
    if collapses {
        let problem = "is not for a broadcast to tags";
        return Err(Refusal::field("collapse_key", problem));
    }
    let tags = checked_tags(FIELD, asked, limits::TARGET_TAGS)?;
    match tags.is_empty() {
        true => Err(Refusal::field(FIELD, "is empty")),
        false => Ok(tags.into_iter().collect()),
    }
}

/// Without repeats.
pub fn checked_tags(
    field: &str,
    given: Vec<String>,
    most: usize,
) -> Result<BTreeSet<String>, Refusal> {
    if given.len() > most {
        return Err(Refusal::field(field, format!("has at most {most} tags")));
    }
    let bytes = limits::TAG_BYTES;
    let is_tag =
        |tag: &String| (1..=bytes).contains(&tag.len()) && !tag.chars().any(char::is_control);
    match given.iter().position(|tag| !is_tag(tag)) {
        Some(at) => {
            let problem = format!("has 1 to {bytes} bytes without control characters");
            Err(Refusal::field(format!("{field}[{at}]"), problem))
        }
        None => Ok(given.into_iter().collect()),
    }
}
