//! What a provider's answers mean, by the codes of Twilio's API.

use crate::dispatcher::channel::{Answer, REFUSED, http};
use reqwest::StatusCode;
use serde::Deserialize;
use std::time::Duration;

#[derive(Default, Deserialize)]
struct Taken {
    #[serde(default)]
    sid: String,
}

#[derive(Default, Deserialize)]
struct Failure {
    code: Option<u32>,
}

pub fn judge(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Answer {
    if status.is_success() {
        let taken: Taken = serde_json::from_slice(body).unwrap_or_default();
        return Answer::sent(&taken.sid);
    }
    let failure: Failure = serde_json::from_slice(body).unwrap_or_default();
    let reason = http::reason(status, body);
    let transient = |class| Answer::Transient {
        class,
        reason: reason.clone(),
        retry_after,
    };
    let permanent = |class| Answer::Permanent {
        class,
        reason: reason.clone(),
    };
    match (failure.code, status.as_u16()) {
        // Whoever has the number said STOP, and may say START again: it is kept.
        (Some(21610), _) => permanent("unsubscribed"),
        // No number, or none that takes text messages.
        (Some(21211 | 21214 | 21217 | 21614), _) => permanent("bad_number"),
        // No way there from our sender, or a country that the account does not send to.
        (Some(21408 | 21612), _) => permanent("no_route"),
        (Some(21602 | 21605 | 21617 | 21619), _) => permanent("unfit"),
        // Too many at once, or the sender's queue is full.
        (Some(20429 | 21611), _) | (_, 429) => transient("throttled"),
        // The account, its sender, or what we told it of ourselves: the message is not to blame.
        (Some(21212 | 21603 | 21606 | 21609 | 21659 | 21660 | 21703 | 21704 | 21705), _)
        | (_, 401 | 403 | 404) => transient(REFUSED),
        (_, 408 | 500..) => transient("provider_away"),
        _ => permanent("rejected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meaning(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        match judge(status, None, body.as_bytes()) {
            Answer::Sent { provider_id } => format!("sent as {provider_id}"),
            Answer::Transient { class, .. } => format!("later: {class}"),
            Answer::Permanent { class, .. } => format!("never: {class}"),
            Answer::Gone => "gone".into(),
        }
    }

    #[test]
    fn each_documented_code_has_its_meaning() {
        for (status, code, expected) in [
            (400, 21610, "never: unsubscribed"),
            (400, 21211, "never: bad_number"),
            (400, 21614, "never: bad_number"),
            (400, 21408, "never: no_route"),
            (400, 21612, "never: no_route"),
            (400, 21617, "never: unfit"),
            (400, 21602, "never: unfit"),
            (429, 20429, "later: throttled"),
            (400, 21611, "later: throttled"),
            (401, 20003, "later: provider_refused"),
            (404, 20404, "later: provider_refused"),
            (400, 21606, "later: provider_refused"),
            (400, 21212, "later: provider_refused"),
            (500, 20500, "later: provider_away"),
            (503, 20503, "later: provider_away"),
            (400, 99999, "never: rejected"),
        ] {
            let body = json!({ "code": code, "message": "m", "more_info": "i", "status": status });
            assert_eq!(meaning(status, &body.to_string()), expected, "{code}");
        }
    }

    #[test]
    fn without_a_code_the_status_counts() {
        for (status, expected) in [
            (400, "never: rejected"),
            (403, "later: provider_refused"),
            (408, "later: provider_away"),
            (429, "later: throttled"),
            (502, "later: provider_away"),
        ] {
            assert_eq!(meaning(status, "<html>"), expected, "{status}");
        }
        assert_eq!(
            meaning(201, r#"{"sid":"SM1","status":"queued"}"#),
            "sent as SM1"
        );
    }
}
