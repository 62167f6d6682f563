//! A message of SNS, and what its signature is over.

use super::SnsError;
use crate::{dispatcher::intake::request::Refusal, limits};
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    UnparsedPublicKey,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Deserialize;

/// One that we listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub arn: String,
    /// Who has its certificates, and its subscriptions.
    pub host: String,
    /// Names that such a certificate may have: regions differ.
    pub names: Vec<String>,
}

impl Topic {
    /// `arn:<partition>:sns:<region>:<account>:<name>`
    pub fn parse(arn: &str) -> Option<Topic> {
        let parts: Vec<&str> = arn.split(':').collect();
        let &["arn", partition, "sns", region, account, name] = &parts[..] else {
            return None;
        };
        let domain = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return None,
        };
        let is_plain = |text: &str, other: &[u8]| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || other.contains(&byte))
        };
        let is_known = is_plain(region, b"-") && is_plain(account, b"") && is_plain(name, b"-_.");
        if !is_known || arn.len() > limits::SNS_ARN_BYTES {
            return None;
        }
        let mut names = vec![
            format!("sns.{domain}"),
            format!("sns.{region}.{domain}"),
            format!("sns-{region}.{domain}"),
            format!("sns-signing.{region}.{domain}"),
        ];
        if partition == "aws-us-gov" {
            // One for both of its regions.
            names.push(format!("sns-us-gov-west-1.{domain}"));
        }
        Some(Topic {
            arn: arn.to_owned(),
            host: format!("sns.{region}.{domain}"),
            names,
        })
    }

    /// Whether it leads to the topic's host, and nowhere else.
    pub fn is_own(&self, url: &str) -> bool {
        let Ok(parsed) = reqwest::Url::parse(url) else {
            return false;
        };
        url.len() <= limits::SNS_URL_BYTES
            && parsed.scheme() == "https"
            && parsed.host_str() == Some(&self.host)
            && parsed.port().is_none()
            && parsed.username().is_empty()
            && parsed.password().is_none()
    }

    /// Whether a certificate of SNS lies there: nothing else of that host is asked for.
    fn has_certificate(&self, url: &str) -> bool {
        let path = url
            .strip_prefix("https://")
            .and_then(|rest| rest.strip_prefix(&*self.host));
        let path = path.and_then(|path| path.strip_prefix("/SimpleNotificationService-"));
        let name = path.and_then(|path| path.strip_suffix(".pem"));
        self.is_own(url)
            && name.is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Kind {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

/// As it is posted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    #[serde(rename = "Type")]
    pub kind: Kind,
    pub message_id: String,
    pub topic_arn: String,
    subject: Option<String>,
    #[serde(rename = "Message")]
    pub text: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    pub signing_cert_url: String,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    pub subscribe_url: Option<String>,
}

impl Message {
    pub fn read(body: &[u8]) -> Result<Message, Refusal> {
        serde_json::from_slice(body).map_err(|error| Refusal::BadJson(error.to_string()))
    }

    /// What can be told without its certificate.
    pub fn check(&self, topic: &Topic, now_ms: u64) -> Result<(), SnsError> {
        self.algorithm()?;
        let at: Option<Timestamp> = self.timestamp.parse().ok();
        let at = at.ok_or_else(|| SnsError::unsigned("Timestamp", "is no time of ISO 8601"))?;
        let at_s = u64::try_from(at.as_second()).unwrap_or(0);
        if at_s.abs_diff(now_ms / 1000) > limits::SNS_AGE.as_secs() {
            let problem = "is too far from now: check the clock";
            return Err(SnsError::unsigned("Timestamp", problem));
        }
        match topic.has_certificate(&self.signing_cert_url) {
            true => Ok(()),
            false => {
                let host = &topic.host;
                let problem = format!("is no https://{host}/SimpleNotificationService-*.pem");
                Err(SnsError::unsigned("SigningCertURL", problem))
            }
        }
    }

    /// By the public key of its certificate.
    pub fn verify(&self, key: &[u8]) -> Result<(), SnsError> {
        let key = UnparsedPublicKey::new(self.algorithm()?, key);
        let signature = BASE64_STANDARD.decode(&self.signature).unwrap_or_default();
        key.verify(self.told().as_bytes(), &signature).map_err(|_| {
            SnsError::unsigned("Signature", "is not of this message by SigningCertURL")
        })
    }

    fn algorithm(&self) -> Result<&'static RsaParameters, SnsError> {
        match &*self.signature_version {
            "1" => Ok(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
            "2" => Ok(&RSA_PKCS1_2048_8192_SHA256),
            _ => Err(SnsError::unsigned("SignatureVersion", "is neither 1 nor 2")),
        }
    }

    /// What is signed: names and values, each on a line of its own, in the order of the names.
    fn told(&self) -> String {
        let is_notification = self.kind == Kind::Notification;
        let kind = match self.kind {
            Kind::Notification => "Notification",
            Kind::SubscriptionConfirmation => "SubscriptionConfirmation",
            Kind::UnsubscribeConfirmation => "UnsubscribeConfirmation",
        };
        let pairs = [
            ("Message", Some(&*self.text)),
            ("MessageId", Some(&*self.message_id)),
            (
                "Subject",
                self.subject.as_deref().filter(|_| is_notification),
            ),
            (
                "SubscribeURL",
                self.subscribe_url.as_deref().filter(|_| !is_notification),
            ),
            ("Timestamp", Some(&*self.timestamp)),
            ("Token", self.token.as_deref().filter(|_| !is_notification)),
            ("TopicArn", Some(&*self.topic_arn)),
            ("Type", Some(kind)),
        ];
        let lines = pairs
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}\n{}\n", value?)));
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ARN: &str = "arn:aws:sns:eu-central-1:123456789012:ses-events";
    const URL: &str = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem";
    const NOW_MS: u64 = 1_548_909_424_321;

    fn message(changed: Value) -> Message {
        let mut message = json!({
            "Type": "Notification", "MessageId": "4d4dc071", "TopicArn": ARN, "Message": "a\"b",
            "Timestamp": "2019-01-31T04:37:04.321Z", "SignatureVersion": "1", "Signature": "AAAA",
            "SigningCertURL": URL, "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?x"
        });
        for (name, value) in changed.as_object().unwrap() {
            message[name] = value.clone();
        }
        Message::read(message.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_signed_are_names_and_values_in_the_order_of_the_names() {
        let told =
            "Message\na\"b\nMessageId\n4d4dc071\nTimestamp\n2019-01-31T04:37:04.321Z\nTopicArn\n";
        let told = format!("{told}{ARN}\nType\nNotification\n");
        assert_eq!(message(json!({})).told(), told);
        // What belongs to the other kind is not signed, wherever it comes from.
        assert_eq!(
            message(json!({"Token": "t", "SubscribeURL": "u"})).told(),
            told
        );
        let with_subject = told.replace("\nTimestamp", "\nSubject\nHello\nTimestamp");
        assert_eq!(message(json!({"Subject": "Hello"})).told(), with_subject);
        for kind in ["SubscriptionConfirmation", "UnsubscribeConfirmation"] {
            let of_subscription = message(json!({
                "Type": kind, "Token": "t", "SubscribeURL": "u", "Subject": "Hello"
            }));
            let told = told
                .replace("\nTimestamp", "\nSubscribeURL\nu\nTimestamp")
                .replace("\nTopicArn", "\nToken\nt\nTopicArn")
                .replace("\nNotification\n", &format!("\n{kind}\n"));
            assert_eq!(of_subscription.told(), told);
        }
    }

    #[test]
    fn a_topic_names_the_one_host_that_is_asked() {
        for (arn, host) in [
            (ARN, "sns.eu-central-1.amazonaws.com"),
            (
                "arn:aws-cn:sns:cn-north-1:1:t.fifo",
                "sns.cn-north-1.amazonaws.com.cn",
            ),
            (
                "arn:aws-us-gov:sns:us-gov-east-1:1:t",
                "sns.us-gov-east-1.amazonaws.com",
            ),
        ] {
            assert_eq!(Topic::parse(arn).unwrap().host, host);
        }
        for arn in [
            "",
            "arn:aws:sqs:eu-central-1:1:queue",
            "arn:aws:sns:eu-central-1:1",
            "arn:aws:sns::1:t",
            "arn:aws:sns:evil.example/:1:t",
            "arn:aws:sns:eu-central-1:1:t:subscription",
            "arn:aws-iso:sns:us-iso-east-1:1:t",
        ] {
            assert_eq!(Topic::parse(arn), None, "{arn}");
        }
    }

    #[test]
    fn no_certificate_is_fetched_from_anywhere_else() {
        let topic = Topic::parse(ARN).unwrap();
        let checked = |url: &str| message(json!({"SigningCertURL": url})).check(&topic, NOW_MS);
        assert!(checked(URL).is_ok());
        for url in [
            "http://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-central-1.amazonaws.com:8443/SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-central-1.amazonaws.com.evil.example/SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-central-1.amazonaws.com@evil.example/SimpleNotificationService-0a1b2c.pem",
            "https://evil@sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-central-1.amazonaws.com/../SimpleNotificationService-0a1b2c.pem",
            "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a/../x.pem",
            "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem?x",
            "https://sns.eu-central-1.amazonaws.com/?Action=Publish&x=.pem",
            "file:///SimpleNotificationService-0a1b2c.pem",
            "",
        ] {
            let error = checked(url).expect_err(url);
            assert!(error.to_string().starts_with("SigningCertURL"), "{error}");
        }
        let long = format!(
            "{}.pem",
            URL.replace(".pem", &"0".repeat(limits::SNS_URL_BYTES))
        );
        assert!(checked(&long).is_err());
    }

    #[test]
    fn what_is_old_or_signed_in_another_way_does_not_count() {
        let topic = Topic::parse(ARN).unwrap();
        let age_ms = limits::SNS_AGE.as_millis() as u64;
        let unchanged = message(json!({}));
        assert!(unchanged.check(&topic, NOW_MS + age_ms).is_ok());
        for (message, now_ms, field) in [
            (&unchanged, NOW_MS + age_ms + 1_000, "Timestamp"),
            (&unchanged, NOW_MS - age_ms - 1_000, "Timestamp"),
            (
                &message(json!({"Timestamp": "yesterday"})),
                NOW_MS,
                "Timestamp",
            ),
            (
                &message(json!({"SignatureVersion": "3"})),
                NOW_MS,
                "SignatureVersion",
            ),
        ] {
            let error = message.check(&topic, now_ms).expect_err(field);
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
