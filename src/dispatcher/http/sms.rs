//! What providers of text messages report. They have no key of ours: they sign.

use super::{
    Shared,
    error::ApiError,
    extract::{PathThree, Whole},
};
use crate::{
    dispatcher::{
        channel::{
            Provider,
            report::{self, Pairs, Report},
        },
        store::{Attempted, Sending},
        unix_ms,
    },
    envelope::Channel,
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};

/// 204 for what is noted, and for what says nothing new. Told twice, it says the same.
pub async fn report(
    State(shared): State<Shared>,
    PathThree(provider, id, user): PathThree,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<StatusCode, ApiError> {
    let unknown = || ApiError::not_found("no message was given this address");
    let provider = shared.channels.sms(&provider).ok_or_else(unknown)?;
    let (id, user) = (
        id.parse().map_err(|_| unknown())?,
        report::user(&user).ok_or_else(unknown)?,
    );
    let pairs: Pairs = form_urlencoded::parse(&body).into_owned().collect();
    let signature = headers.get("x-twilio-signature");
    let signature = signature.and_then(|value| value.to_str().ok());
    let name = provider.name();
    let count = |status| {
        let counter = &shared.channel_metrics.reports;
        counter.with_label_values(&[name, status]).inc();
    };
    if !provider.is_signed(id, &user, &pairs, signature.unwrap_or_default()) {
        count("refused");
        let message = "X-Twilio-Signature is none of the account's over this URL: see sms.callback_url and auth_token_file";
        return Err(ApiError::unsigned(message));
    }
    let report = Report::read(&pairs);
    if let Some(state) = report.state {
        let reported = Attempted {
            id,
            user,
            channel: Channel::Sms,
            state,
            devices: 1,
            sending: Sending {
                error: report.error,
                reference: report.provider_id,
                ..Sending::default()
            },
            at_ms: unix_ms(),
        };
        let reported = shared.erasures.attempts_left(vec![reported]);
        if !reported.is_empty() {
            shared.store.record_attempts(&reported).await?;
        }
    }
    count(report.status);
    Ok(StatusCode::NO_CONTENT)
}
