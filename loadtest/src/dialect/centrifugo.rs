//! The client protocol of Centrifugo in JSON, as much of it as subscribing and receiving take: commands and replies are
//! lines, several of which may share a frame.

use super::BadSaying;
use serde::Deserialize;
use serde_json::value::RawValue;

pub const ALL: &str = "all";
/// Its ping, and our answer.
pub const PING: &str = "{}";
/// Of its HTTP API.
pub const PUBLISH: &str = "api/publish";
/// Of the last of [`subscriptions`].
const LAST: u32 = 3;

/// What a server says in a line.
#[derive(Debug)]
pub enum Saying<'a> {
    /// What was published.
    Message(&'a str),
    Ping,
    /// The client is subscribed to all it asked for.
    Subscribed,
    Other,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u32,
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow)]
    r#pub: Option<Publication<'a>>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Lines of a frame.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').filter(|line| !line.is_empty())
}

pub fn parse(line: &str) -> Result<Saying<'_>, BadSaying> {
    if line == PING {
        return Ok(Saying::Ping);
    }
    let reply: Reply<'_> =
        serde_json::from_str(line).map_err(|_| BadSaying("not of Centrifugo"))?;
    if reply.error.is_some() {
        return Err(BadSaying("Centrifugo refused"));
    }
    Ok(match reply.push.map(|push| push.r#pub) {
        Some(Some(publication)) => Saying::Message(publication.data.get()),
        Some(None) => Saying::Other,
        None if reply.id == LAST => Saying::Subscribed,
        None => Saying::Other,
    })
}

/// A client's first words: who it is, its own channel and that of all.
pub fn subscriptions(user: &str) -> String {
    let user = serde_json::Value::from(user);
    format!(
        "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":{user}}}}}\n\
         {{\"id\":{LAST},\"subscribe\":{{\"channel\":\"{ALL}\"}}}}"
    )
}

/// A body for [`PUBLISH`]; the payload is JSON.
pub fn publication(channel: &str, payload: &str) -> String {
    let channel = serde_json::Value::from(channel);
    format!("{{\"channel\":{channel},\"data\":{payload}}}")
}

/// What an answer to it says, whose status is 200 in any case.
pub fn is_published(answer: &str) -> bool {
    answer.starts_with("{\"result\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        match parse(line) {
            Ok(Saying::Message(data)) => data.to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_published_is_read_as_it_was_written() {
        let push = "{\"push\":{\"channel\":\"7\",\"pub\":{\"data\":{\"type\":\"notification\",\"n\": 1}}}}";
        assert_eq!(said(push), "{\"type\":\"notification\",\"n\": 1}");
        assert_eq!(
            publication("7", "{\"a\":1}"),
            "{\"channel\":\"7\",\"data\":{\"a\":1}}"
        );
    }

    #[test]
    fn who_has_an_answer_to_the_last_of_its_first_words_is_subscribed() {
        assert_eq!(lines(&subscriptions("7")).count(), 3);
        assert_eq!(
            said("{\"id\":1,\"connect\":{\"client\":\"x\",\"ping\":25,\"pong\":true}}"),
            "Ok(Other)"
        );
        assert_eq!(said("{\"id\":3,\"subscribe\":{}}"), "Ok(Subscribed)");
        assert_eq!(said("{}"), "Ok(Ping)");
    }

    #[test]
    fn a_refusal_and_another_protocol_are_errors() {
        let refused = "{\"id\":2,\"error\":{\"code\":103,\"message\":\"permission denied\"}}";
        assert_eq!(said(refused), "Err(BadSaying(\"Centrifugo refused\"))");
        assert_eq!(said("hello"), "Err(BadSaying(\"not of Centrifugo\"))");
    }
}
