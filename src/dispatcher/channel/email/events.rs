//! What became of mails that a relay took: bounces and complaints, told by whoever runs the relay.
//!
//! In two shapes: our own, and that of Amazon SES (as SNS wraps it, or without). Signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) has it: HMAC-SHA256 over id, time and body; or by SNS ([`Sns`]).
//!
//! Invariants:
//! * nobody without the secret, and no topic that is not named, suppresses an address, and what was signed a while ago
//!   counts no more;
//! * only what is final suppresses: a full mailbox may have room tomorrow; and no report lifts what another one said.

use super::{signing_keys, sns::Sns};
use crate::{
    config::{self, ConfigError},
    dispatcher::{
        intake::{fields::Fields, request::Refusal},
        suppression::{Returned, SuppressedFor, Suppression},
    },
    limits,
};
use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

const KEY: &str = "email.events_secret_file";

pub struct Events {
    /// Each is good; none where nobody signs with a secret.
    keys: ArcSwap<Vec<hmac::Key>>,
    sns: Option<Sns>,
}

/// Headers of a request, as they came.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub id: &'a str,
    /// Unix seconds.
    pub at: &'a str,
    /// Several, separated by spaces, each `v1,<base64>`.
    pub signatures: &'a str,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unsigned {
    #[error(
        "webhook-signature is not of this body by a secret of email.events_secret_file: v1,<base64 of HMAC-SHA256 over id.timestamp.body>"
    )]
    Signature,
    #[error("webhook-timestamp is too far from now: check the clocks")]
    Time,
}

/// What a request tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub returned: Vec<Returned>,
    /// Events that change nothing.
    pub ignored: usize,
}

impl Events {
    /// `None` where nobody tells.
    pub fn from_config(config: &config::Email) -> Result<Option<Events>, ConfigError> {
        let (keys, sns) = (keys(config)?, Sns::from_config(config)?);
        if keys.is_none() && sns.is_none() {
            return Ok(None);
        }
        Ok(Some(Events {
            keys: ArcSwap::from_pointee(keys.unwrap_or_default()),
            sns,
        }))
    }

    /// Where topics of it are listened to.
    pub fn sns(&self) -> Option<&Sns> {
        self.sns.as_ref()
    }

    /// Reads the secrets again; what can't be read changes nothing.
    pub fn reload(&self, config: &config::Email) -> Result<(), ConfigError> {
        if let Some(keys) = keys(config)? {
            self.keys.store(keys.into());
        }
        Ok(())
    }

    pub fn verify(&self, signed: Signed<'_>, body: &[u8], now_ms: u64) -> Result<(), Unsigned> {
        let told = [signed.id.as_bytes(), signed.at.as_bytes(), body].join(&b'.');
        let keys = self.keys.load();
        let is_ours = |signature: &str| {
            let tag = signature.strip_prefix("v1,");
            let tag = tag.and_then(|tag| BASE64_STANDARD.decode(tag).ok());
            // In a time that does not depend on the tag.
            let is_by = |key| hmac::verify(key, &told, tag.as_deref().unwrap_or_default()).is_ok();
            keys.iter().any(is_by)
        };
        let mut given = signed
            .signatures
            .split(' ')
            .take(limits::WEBHOOK_SIGNATURES);
        if !given.any(is_ours) {
            return Err(Unsigned::Signature);
        }
        let at_s: u64 = signed.at.parse().map_err(|_| Unsigned::Time)?;
        match at_s.abs_diff(now_ms / 1000) <= limits::WEBHOOK_AGE.as_secs() {
            true => Ok(()),
            false => Err(Unsigned::Time),
        }
    }
}

fn keys(config: &config::Email) -> Result<Option<Vec<hmac::Key>>, ConfigError> {
    signing_keys(KEY, config.events_secret_file.as_deref(), |line| {
        // As providers show theirs.
        match line.strip_prefix("whsec_") {
            None => Ok(line.as_bytes().to_vec()),
            Some(encoded) => BASE64_STANDARD.decode(encoded).map_err(|error| {
                ConfigError::new(KEY, format!("what follows whsec_ is no base64: {error}"))
            }),
        }
    })
}

/// Reads the body of `POST /v1/email/events`.
pub fn read(body: &[u8], now_ms: u64) -> Result<Told, Refusal> {
    /// What tells the shapes apart.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(rename = "Message")]
        sns_message: Option<String>,
        notification_type: Option<String>,
        event_type: Option<String>,
    }
    let shape: Shape =
        serde_json::from_slice(body).map_err(|error| Refusal::BadJson(error.to_string()))?;
    match shape {
        Shape {
            sns_message: Some(message),
            ..
        } => of_ses(&message, now_ms),
        Shape {
            notification_type: None,
            event_type: None,
            ..
        } => own(body, now_ms),
        _ => ses(body, "body", now_ms),
    }
}

/// `{"events":[{"type":"bounce","address":…,"permanent":true,"reason":…,"sent_at":…},{"type":"complaint",…}]}`
fn own(body: &[u8], now_ms: u64) -> Result<Told, Refusal> {
    let mut fields = Fields::read(body)?;
    let events: Vec<&RawValue> = fields.demand("events", "a list of events")?;
    fields.finish("a report of e-mail")?;
    if events.len() > limits::EMAIL_EVENTS {
        let most = limits::EMAIL_EVENTS;
        return Err(Refusal::field(
            "events",
            format!("has at most {most} events"),
        ));
    }
    let mut told = Told::default();
    for (n, event) in events.into_iter().enumerate() {
        let at = format!("events[{n}]");
        let mut event = Fields::within(at.clone(), event, "an event, an object")?;
        let of_type: String = event.demand("type", "a string")?;
        let address: String = event.demand("address", "a string")?;
        let permanent = event.take("permanent", "true or false")?.unwrap_or(false);
        let reason: String = event.take("reason", "a string")?.unwrap_or_default();
        let sent_ms = event.take("sent_at", "Unix ms")?;
        event.finish("an event")?;
        let cause = match (of_type.as_str(), permanent) {
            ("bounce", true) => Some(SuppressedFor::HardBounce),
            ("complaint", _) => Some(SuppressedFor::Complaint),
            _ => None,
        };
        let mail = (address.as_str(), sent_ms);
        told.add(cause, mail, &reason, now_ms)
            .map_err(|problem| Refusal::field(format!("{at}.address"), problem))?;
    }
    Ok(told)
}

/// Reads what SNS was given by Amazon SES.
pub fn of_ses(report: &str, now_ms: u64) -> Result<Told, Refusal> {
    ses(report.as_bytes(), "Message", now_ms)
}

/// A notification or an event of Amazon SES; what else it may say is not ours to judge.
fn ses(body: &[u8], field: &str, now_ms: u64) -> Result<Told, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Report {
        bounce: Option<Bounce>,
        complaint: Option<Complaint>,
        #[serde(default)]
        mail: Mail,
    }
    /// The one that came back.
    #[derive(Default, Deserialize)]
    struct Mail {
        #[serde(default)]
        timestamp: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bounce {
        bounce_type: String,
        bounced_recipients: Vec<Recipient>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Complaint {
        complained_recipients: Vec<Recipient>,
        #[serde(default)]
        complaint_feedback_type: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Recipient {
        email_address: String,
        #[serde(default)]
        diagnostic_code: Option<String>,
    }
    let refused = |problem: String| Refusal::field(field, problem);
    let report: Report = serde_json::from_slice(body)
        .map_err(|error| refused(format!("is no report of Amazon SES: {error}")))?;
    let mut told = Told::default();
    let sent_at = report.mail.timestamp.as_deref();
    let sent_at: Option<Timestamp> = sent_at.and_then(|at| at.parse().ok());
    let sent_ms = sent_at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    let (recipients, cause, kind) = match report {
        Report {
            bounce: Some(bounce),
            ..
        } => {
            let is_final = bounce.bounce_type == "Permanent";
            let cause = is_final.then_some(SuppressedFor::HardBounce);
            (bounce.bounced_recipients, cause, None)
        }
        Report {
            complaint: Some(complaint),
            ..
        } => {
            let kind = complaint.complaint_feedback_type;
            // The feedback type of RFC 6430 by which a mail is taken out of the spam folder.
            let is_praise = kind
                .as_deref()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("not-spam"));
            let cause = (!is_praise).then_some(SuppressedFor::Complaint);
            (complaint.complained_recipients, cause, kind)
        }
        _ => {
            told.ignored = 1;
            return Ok(told);
        }
    };
    if recipients.len() > limits::EMAIL_EVENTS {
        let most = limits::EMAIL_EVENTS;
        return Err(refused(format!("names more than {most} recipients")));
    }
    for recipient in recipients {
        let reason = recipient.diagnostic_code.or_else(|| kind.clone());
        let mail = (recipient.email_address.as_str(), sent_ms);
        told.add(cause, mail, &reason.unwrap_or_default(), now_ms)
            .map_err(refused)?;
    }
    Ok(told)
}

impl Told {
    fn add(
        &mut self,
        cause: Option<SuppressedFor>,
        (address, sent_ms): (&str, Option<u64>),
        reason: &str,
        now_ms: u64,
    ) -> Result<(), String> {
        // `Name <address>` is what some relays give.
        let address = match address.split_once('<') {
            Some((_, within)) => within.trim_end().trim_end_matches('>'),
            None => address,
        };
        if !address.contains('@') || address.len() > limits::EMAIL_ADDRESS_BYTES {
            return Err("is no e-mail address".into());
        }
        match cause {
            Some(cause) => {
                let suppression = Suppression::new(address, cause, reason, now_ms);
                self.returned.push(Returned {
                    suppression,
                    sent_ms,
                });
            }
            None => self.ignored += 1,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const NOW_MS: u64 = 1_674_087_231_000;

    fn events(secrets: &str) -> Events {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{secrets}").unwrap();
        let config = config::Email {
            events_secret_file: Some(file.path().to_owned()),
            ..config::Email::default()
        };
        Events::from_config(&config).unwrap().unwrap()
    }

    /// The signature is what Python's `hmac` makes of it.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let events = events("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        let body = br#"{"event_type":"ping","data":{"success":true}}"#;
        let good = Signed {
            id: "msg_loFOjxBNrRLzqYUf",
            at: "1731705121",
            signatures: "v1,Vr7I+3nDU86QUiDSfbM2evz2uJR/7d9XDcmuTdBO8/I=",
        };
        let now_ms = 1_731_705_121_000;
        assert_eq!(events.verify(good, body, now_ms), Ok(()));
        let rotated = Signed {
            signatures: "v1,AAAA v1a,xyz v1,Vr7I+3nDU86QUiDSfbM2evz2uJR/7d9XDcmuTdBO8/I=",
            ..good
        };
        assert_eq!(events.verify(rotated, body, now_ms), Ok(()));
        for changed in [
            Signed {
                id: "msg_2",
                ..good
            },
            Signed {
                at: "1731705122",
                ..good
            },
            Signed {
                signatures: "",
                ..good
            },
            Signed {
                signatures: "v1,",
                ..good
            },
        ] {
            let verified = events.verify(changed, body, now_ms);
            assert_eq!(verified, Err(Unsigned::Signature));
        }
        assert_eq!(events.verify(good, b"{}", now_ms), Err(Unsigned::Signature));
        let late = now_ms + limits::WEBHOOK_AGE.as_millis() as u64 + 1_000;
        assert_eq!(events.verify(good, body, late), Err(Unsigned::Time));
    }

    fn returned(cause: SuppressedFor, address: &str, reason: &str) -> Returned {
        Returned {
            suppression: Suppression::new(address, cause, reason, NOW_MS),
            sent_ms: None,
        }
    }

    fn bounce(address: &str, reason: &str) -> Returned {
        returned(SuppressedFor::HardBounce, address, reason)
    }

    fn complaint(address: &str, reason: &str) -> Returned {
        returned(SuppressedFor::Complaint, address, reason)
    }

    #[test]
    fn what_is_final_suppresses_and_the_rest_is_counted() {
        let body = br#"{"events":[
            {"type":"bounce","address":"Ada@Example.com","permanent":true,"reason":"550 5.1.1"},
            {"type":"bounce","address":"bob@example.com","permanent":false,"reason":"452 full"},
            {"type":"bounce","address":"eve@example.com"},
            {"type":"delivered","address":"eve@example.com"},
            {"type":"complaint","address":"Bob <bob@example.com>"}]}"#;
        let told = read(body, NOW_MS).unwrap();
        let expected = [
            bounce("ada@example.com", "550 5.1.1"),
            complaint("bob@example.com", ""),
        ];
        assert_eq!((&told.returned[..], told.ignored), (&expected[..], 3));
    }

    /// The examples of the service's documentation, shortened.
    #[test]
    fn reports_of_amazon_ses_are_read_as_they_come_and_as_sns_wraps_them() {
        let hard = r#"{"notificationType":"Bounce","bounce":{"feedbackId":"f","bounceType":"Permanent","bounceSubType":"General",
            "bouncedRecipients":[{"emailAddress":"jane@example.com","status":"5.1.1","action":"failed",
            "diagnosticCode":"smtp; 550 5.1.1 user unknown"}],"timestamp":"2016-01-27T14:59:38.237Z"},"mail":{}}"#;
        let soft = hard.replace("Permanent", "Transient");
        let complained = r#"{"eventType":"Complaint","complaint":{"complainedRecipients":[{"emailAddress":"jane@example.com"}],
            "complaintFeedbackType":"abuse","feedbackId":"f"},"mail":{}}"#;
        let praised = complained.replace("abuse", "not-spam");
        let delivered = r#"{"notificationType":"Delivery","delivery":{"recipients":["jane@example.com"]},"mail":{}}"#;
        let of_bounce = [bounce("jane@example.com", "smtp; 550 5.1.1 user unknown")];
        let of_complaint = [complaint("jane@example.com", "abuse")];
        for (report, expected, ignored) in [
            (hard, &of_bounce[..], 0),
            (&soft, &[], 1),
            (complained, &of_complaint[..], 0),
            (&praised, &[], 1),
            (delivered, &[], 1),
        ] {
            let wrapped = serde_json::json!({
                "Type": "Notification", "TopicArn": "arn:aws:sns:eu-central-1:1:ses", "Message": report
            });
            for body in [report.to_owned(), wrapped.to_string()] {
                let told = read(body.as_bytes(), NOW_MS).unwrap();
                assert_eq!((&told.returned[..], told.ignored), (expected, ignored));
            }
        }
    }

    #[test]
    fn when_the_mail_was_sent_is_told_in_both_shapes() {
        let own = r#"{"events":[{"type":"bounce","address":"a@b.c","permanent":true,"sent_at":1453906778000}]}"#;
        let ses = r#"{"notificationType":"Complaint","complaint":{"complainedRecipients":[{"emailAddress":"a@b.c"}]},
            "mail":{"timestamp":"2016-01-27T14:59:38.000Z"}}"#;
        for body in [own, ses] {
            let told = read(body.as_bytes(), NOW_MS).unwrap();
            assert_eq!(told.returned[0].sent_ms, Some(1_453_906_778_000), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many = format!(
            r#"{{"events":[{}]}}"#,
            vec![r#"{"type":"open","address":"a@b"}"#; limits::EMAIL_EVENTS + 1].join(",")
        );
        for (body, field) in [
            ("[]", None),
            ("{", None),
            ("{}", Some("events")),
            (r#"{"events":[1]}"#, Some("events[0]")),
            (
                r#"{"events":[{"type":"bounce"}]}"#,
                Some("events[0].address"),
            ),
            (
                r#"{"events":[{"type":"open","address":"a@b.c"},{"type":"bounce","address":"ada","permanent":true}]}"#,
                Some("events[1].address"),
            ),
            (
                r#"{"events":[{"type":"bounce","address":"a@b.c","sent_at":"soon"}]}"#,
                Some("events[0].sent_at"),
            ),
            (r#"{"events":[],"colour":1}"#, Some("colour")),
            (r#"{"notificationType":"Bounce","bounce":{}}"#, Some("body")),
            (r#"{"Message":"hello"}"#, Some("Message")),
            (&many, Some("events")),
        ] {
            let refusal = read(body.as_bytes(), NOW_MS).expect_err(body);
            assert_eq!(refusal.named_field(), field, "{body}: {refusal}");
        }
    }
}
