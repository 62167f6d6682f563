//! What APNs' answers mean.

use crate::dispatcher::channel::{Answer, Judged, REFUSED, http as by_http};
use bytes::Bytes;
use http::{Response, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    reason: String,
    /// Unix ms at which Apple was sure that the token was of no use any more.
    timestamp: Option<u64>,
}

/// `entered_ms` is when the device was last entered.
pub fn judge(response: &Response<Bytes>, entered_ms: u64) -> Judged {
    let (status, body) = (response.status(), response.body());
    if status == StatusCode::OK {
        let name = response.headers().get("apns-id");
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        return Judged::Answer(Answer::sent(name));
    }
    let failure: Failure = serde_json::from_slice(body).unwrap_or_default();
    let asked = response.headers().get(RETRY_AFTER);
    let asked = asked.and_then(|value| by_http::pause(value.to_str().ok()?, SystemTime::now()));
    let words = by_http::reason(status, body);
    of_reason(status.as_u16(), &failure, entered_ms, asked, words)
}

fn of_reason(
    status: u16,
    failure: &Failure,
    entered_ms: u64,
    retry_after: Option<Duration>,
    words: String,
) -> Judged {
    let transient = |class| Answer::Transient {
        class,
        reason: words.clone(),
        retry_after,
    };
    let permanent = |class| Answer::Permanent {
        class,
        reason: words.clone(),
    };
    Judged::Answer(match (failure.reason.as_str(), status) {
        ("BadDeviceToken", _) => Answer::Gone,
        // It may have been entered anew after Apple gave it up: then it counts again, only not yet.
        ("Unregistered" | "ExpiredToken", _) => {
            match failure.timestamp.is_none_or(|at_ms| at_ms >= entered_ms) {
                true => Answer::Gone,
                false => transient("unregistered_before"),
            }
        }
        ("DeviceTokenNotForTopic", _) => permanent("other_sender"),
        ("PayloadTooLarge", _) | (_, 413) => permanent("unfit"),
        ("ExpiredProviderToken" | "InvalidProviderToken", _) => {
            return Judged::TokenRefused(transient(REFUSED));
        }
        // Our topic, our key, the environment: the message is not to blame.
        ("BadTopic" | "MissingTopic" | "TopicDisallowed", _) | (_, 403) => transient(REFUSED),
        ("TooManyRequests" | "TooManyProviderTokenUpdates", _) | (_, 429) => transient("throttled"),
        ("IdleTimeout", _) | (_, 408 | 500..) => transient("provider_away"),
        _ => permanent("rejected"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, reason: &str, timestamp: Option<u64>) -> String {
        let failure = Failure {
            reason: reason.into(),
            timestamp,
        };
        match of_reason(status, &failure, 1_000, None, String::new()) {
            Judged::TokenRefused(_) => "token".into(),
            Judged::Answer(Answer::Gone) => "gone".into(),
            Judged::Answer(Answer::Permanent { class, .. }) => format!("never: {class}"),
            Judged::Answer(Answer::Transient { class, .. }) => format!("later: {class}"),
            Judged::Answer(Answer::Sent { .. }) => "sent".into(),
        }
    }

    #[test]
    fn each_documented_reason_has_its_meaning() {
        for (status, reason, meaning) in [
            (400, "BadCollapseId", "never: rejected"),
            (400, "BadDeviceToken", "gone"),
            (400, "BadExpirationDate", "never: rejected"),
            (400, "BadMessageId", "never: rejected"),
            (400, "BadPriority", "never: rejected"),
            (400, "BadTopic", "later: provider_refused"),
            (400, "DeviceTokenNotForTopic", "never: other_sender"),
            (400, "DuplicateHeaders", "never: rejected"),
            (400, "IdleTimeout", "later: provider_away"),
            (400, "InvalidPushType", "never: rejected"),
            (400, "MissingDeviceToken", "never: rejected"),
            (400, "MissingTopic", "later: provider_refused"),
            (400, "PayloadEmpty", "never: rejected"),
            (400, "TopicDisallowed", "later: provider_refused"),
            (403, "BadCertificate", "later: provider_refused"),
            (403, "BadCertificateEnvironment", "later: provider_refused"),
            (403, "BadEnvironmentKeyIdInToken", "later: provider_refused"),
            (403, "ExpiredProviderToken", "token"),
            (403, "Forbidden", "later: provider_refused"),
            (403, "InvalidProviderToken", "token"),
            (403, "MissingProviderToken", "later: provider_refused"),
            (403, "UnrelatedKeyIdInToken", "later: provider_refused"),
            (404, "BadPath", "never: rejected"),
            (405, "MethodNotAllowed", "never: rejected"),
            (410, "ExpiredToken", "gone"),
            (410, "Unregistered", "gone"),
            (413, "PayloadTooLarge", "never: unfit"),
            (429, "TooManyProviderTokenUpdates", "later: throttled"),
            (429, "TooManyRequests", "later: throttled"),
            (500, "InternalServerError", "later: provider_away"),
            (503, "ServiceUnavailable", "later: provider_away"),
            (503, "Shutdown", "later: provider_away"),
        ] {
            assert_eq!(class(status, reason, None), meaning, "{status} {reason}");
        }
    }

    #[test]
    fn a_token_that_was_entered_after_apple_gave_it_up_is_kept() {
        for (at_ms, meaning) in [
            (999, "later: unregistered_before"),
            (1_000, "gone"),
            (1_001, "gone"),
        ] {
            assert_eq!(class(410, "Unregistered", Some(at_ms)), meaning);
        }
    }

    #[test]
    fn without_a_reason_no_token_is_given_up() {
        for (status, meaning) in [
            (400, "never: rejected"),
            (403, "later: provider_refused"),
            (404, "never: rejected"),
            (410, "never: rejected"),
            (429, "later: throttled"),
            (502, "later: provider_away"),
        ] {
            assert_eq!(class(status, "", None), meaning, "{status}");
        }
    }
}
