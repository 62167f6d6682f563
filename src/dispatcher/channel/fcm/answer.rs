//! What FCM's answers mean.

use crate::{
    dispatcher::channel::{Answer, Judged, REFUSED, http},
    limits,
};
use reqwest::StatusCode;
use serde::Deserialize;
use std::time::Duration;

#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    error: Problem,
}

#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    details: Vec<Detail>,
}

/// `FcmError` has the first, `BadRequest` the second; other kinds have neither.
#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "errorCode")]
    code: Option<String>,
    #[serde(rename = "fieldViolations", default)]
    violations: Vec<Violation>,
}

#[derive(Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

pub fn judge(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Judged {
    if status.is_success() {
        return Judged::Answer(Answer::sent(&name(body)));
    }
    let failure: Failure = serde_json::from_slice(body).unwrap_or_default();
    let details = &failure.error.details;
    let code = details.iter().find_map(|detail| detail.code.as_deref());
    let mut violations = details.iter().flat_map(|detail| &detail.violations);
    let is_the_token = violations.any(|violation| violation.field == "message.token");
    let reason = http::reason(status, body);
    let transient = |class, retry_after| Answer::Transient {
        class,
        reason: reason.clone(),
        retry_after,
    };
    let permanent = |class| Answer::Permanent {
        class,
        reason: reason.clone(),
    };
    Judged::Answer(match (code, status.as_u16()) {
        (Some("UNREGISTERED"), _) => Answer::Gone,
        (Some("INVALID_ARGUMENT"), _) | (None, 400) if is_the_token => Answer::Gone,
        // The token is of another project: ours may be the wrong one, so it stays.
        (Some("SENDER_ID_MISMATCH"), _) => permanent("other_sender"),
        (Some("QUOTA_EXCEEDED"), _) | (_, 429) => {
            transient("throttled", retry_after.or(Some(limits::FCM_QUOTA_PAUSE)))
        }
        // The project's key to Apple or to browsers is not taken.
        (Some("THIRD_PARTY_AUTH_ERROR"), _) => transient(REFUSED, retry_after),
        (_, 401) => return Judged::TokenRefused(transient(REFUSED, retry_after)),
        // No such project, or none that this account may send for.
        (_, 403 | 404) => transient(REFUSED, retry_after),
        (Some("UNAVAILABLE" | "INTERNAL"), _) | (_, 408 | 500..) => {
            transient("provider_away", retry_after)
        }
        _ => permanent("rejected"),
    })
}

/// `projects/…/messages/…`
fn name(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Sent {
        #[serde(default)]
        name: String,
    }
    let sent: Sent = serde_json::from_slice(body).unwrap_or_default();
    sent.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn class(status: u16, details: Value) -> String {
        let body = json!({ "error": { "code": status, "message": "m", "details": details } });
        let status = StatusCode::from_u16(status).unwrap();
        match judge(status, None, body.to_string().as_bytes()) {
            Judged::TokenRefused(_) => "token".into(),
            Judged::Answer(Answer::Gone) => "gone".into(),
            Judged::Answer(Answer::Permanent { class, .. }) => format!("never: {class}"),
            Judged::Answer(Answer::Transient {
                class, retry_after, ..
            }) => match retry_after {
                Some(after) => format!("later: {class} in {} s", after.as_secs()),
                None => format!("later: {class}"),
            },
            Judged::Answer(Answer::Sent { .. }) => "sent".into(),
        }
    }

    fn code(code: &str) -> Value {
        json!([{ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code }])
    }

    fn violation(field: &str) -> Value {
        json!([
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{ "field": field, "description": "d" }],
            },
            code("INVALID_ARGUMENT")[0],
        ])
    }

    #[test]
    fn each_documented_code_has_its_meaning() {
        for (status, details, meaning) in [
            (404, code("UNREGISTERED"), "gone"),
            (400, code("INVALID_ARGUMENT"), "never: rejected"),
            (400, violation("message.token"), "gone"),
            (400, violation("message.data[0].value"), "never: rejected"),
            (403, code("SENDER_ID_MISMATCH"), "never: other_sender"),
            (429, code("QUOTA_EXCEEDED"), "later: throttled in 60 s"),
            (503, code("UNAVAILABLE"), "later: provider_away"),
            (500, code("INTERNAL"), "later: provider_away"),
            (
                401,
                code("THIRD_PARTY_AUTH_ERROR"),
                "later: provider_refused",
            ),
            (500, code("UNSPECIFIED_ERROR"), "later: provider_away"),
        ] {
            assert_eq!(
                class(status, details.clone()),
                meaning,
                "{status} {details}"
            );
        }
    }

    #[test]
    fn without_a_code_no_token_is_given_up() {
        for (status, meaning) in [
            (400, "never: rejected"),
            (401, "token"),
            (403, "later: provider_refused"),
            (404, "later: provider_refused"),
            (410, "never: rejected"),
            (429, "later: throttled in 60 s"),
            (502, "later: provider_away"),
        ] {
            assert_eq!(class(status, json!([])), meaning, "{status}");
        }
        let page = judge(StatusCode::NOT_FOUND, None, b"<html>UNREGISTERED</html>");
        assert!(matches!(page, Judged::Answer(Answer::Transient { .. })));
    }
}
