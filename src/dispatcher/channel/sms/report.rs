//! What a provider reports of a message that it took: status callbacks, signed as Twilio signs them.
//!
//! A report names its notification and user by the path that we gave with the message, so nothing has to be kept until it
//! comes; whoever can't sign it with the account's token says nothing of either.

use crate::{
    config::Secret,
    dispatcher::store::SendState,
    ids::{NotificationId, UserId},
    limits,
};
use aws_lc_rs::hmac;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};

/// What the body of a callback says, decoded.
pub type Pairs = Vec<(String, String)>;

/// Of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A word from a closed list, for metrics.
    pub status: &'static str,
    /// `None`: it is on its way, as we know.
    pub state: Option<SendState>,
    /// The provider's code for what went wrong.
    pub error: String,
    pub provider_id: String,
}

impl Report {
    pub fn read(pairs: &Pairs) -> Report {
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let (status, state) = match value("MessageStatus") {
            "delivered" => ("delivered", Some(SendState::Delivered)),
            "undelivered" => ("undelivered", Some(SendState::Undelivered)),
            "failed" => ("failed", Some(SendState::GivenUp)),
            "sent" => ("sent", None),
            _ => ("other", None),
        };
        // Of an error there are only digits.
        let error = value("ErrorCode").parse::<u32>();
        let sid = value("MessageSid").chars();
        Report {
            status,
            state,
            error: error.map_or(String::new(), |code| code.to_string()),
            provider_id: sid.take(limits::PROVIDER_ID_CHARS).collect(),
        }
    }
}

/// Where a provider reports: the URL we gave it, of which nothing is percent-encoded, so that nobody on the way
/// writes it in another form.
pub fn url(base: &str, provider: &str, id: NotificationId, user: &UserId) -> String {
    let user = BASE64_URL_SAFE_NO_PAD.encode(user.as_str());
    format!("{base}/v1/sms/{provider}/{id}/{user}")
}

/// The user of such a URL's last part.
pub fn user(part: &str) -> Option<UserId> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// HMAC-SHA1 over the URL and the parameters in the order of their names. The URL is taken with its port and without:
/// providers differ in what they sign. In constant time.
pub fn is_signed(secret: &Secret, url: &str, pairs: &Pairs, signature: &str) -> bool {
    let Ok(signature) = BASE64_STANDARD.decode(signature) else {
        return false;
    };
    let mut sorted: Vec<&(String, String)> = pairs.iter().collect();
    sorted.sort();
    let told: String = sorted
        .iter()
        .flat_map(|(key, value)| [&**key, &**value])
        .collect();
    let urls = [Some(url.to_owned()), with_other_port(url)];
    let mut texts = urls.into_iter().flatten().map(|url| url + &told);
    texts.any(|text| {
        secret.alternatives().any(|token| {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes());
            hmac::verify(&key, text.as_bytes(), &signature).is_ok()
        })
    })
}

/// Without its port, or with that of its scheme.
fn with_other_port(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    Some(match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{name}{path}")
        }
        _ => format!("{scheme}://{host}:443{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";
    /// Of this URL and these parameters, by `openssl dgst -sha1 -hmac 12345`.
    const SIGNATURE: &str = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";

    fn pairs() -> Pairs {
        let pairs = [
            ("To", "+18005551212"),
            ("Digits", "1234"),
            ("CallSid", "CA1234567890ABCDE"),
            ("From", "+14158675309"),
            ("Caller", "+14158675309"),
        ];
        pairs
            .map(|(key, value)| (key.into(), value.into()))
            .to_vec()
    }

    #[test]
    fn a_signature_is_that_of_the_url_and_the_parameters_in_order() {
        let secret = Secret::new("12345");
        assert!(is_signed(&secret, URL, &pairs(), SIGNATURE));
        assert!(is_signed(
            &Secret::new("next\n12345"),
            URL,
            &pairs(),
            SIGNATURE
        ));
        let mut others = pairs();
        others[1].1 = "1235".into();
        assert!(!is_signed(&secret, URL, &others, SIGNATURE));
        assert!(!is_signed(&Secret::new("12346"), URL, &pairs(), SIGNATURE));
        assert!(!is_signed(
            &secret,
            &URL.replace('1', "2"),
            &pairs(),
            SIGNATURE
        ));
        for broken in ["", "x", &SIGNATURE[..20]] {
            assert!(!is_signed(&secret, URL, &pairs(), broken), "{broken}");
        }
    }

    #[test]
    fn a_port_may_stand_in_what_was_signed_or_not() {
        let secret = Secret::new("12345");
        let with = URL.replace(".com/", ".com:443/");
        assert!(is_signed(&secret, &with, &pairs(), SIGNATURE));
        assert_eq!(with_other_port(URL).as_deref(), Some(&*with));
        assert_eq!(with_other_port(&with).as_deref(), Some(URL));
    }

    #[test]
    fn any_user_comes_back_from_the_url() {
        let id = NotificationId::generate();
        for name in ["42", "ü/ ?%", "a+b@example.com"] {
            let user: UserId = name.parse().unwrap();
            let url = url("https://herald.example", "one", id, &user);
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_:/.".contains(c);
            assert!(url.chars().all(is_plain), "{url}");
            assert_eq!(super::user(url.rsplit('/').next().unwrap()), Some(user));
        }
        assert_eq!(super::user("%%"), None);
    }

    #[test]
    fn a_report_is_a_state_and_a_code() {
        let read = |status: &str, code: &str| {
            let pairs = [
                ("MessageSid", "SM1"),
                ("MessageStatus", status),
                ("ErrorCode", code),
            ];
            Report::read(
                &pairs
                    .map(|(key, value)| (key.into(), value.into()))
                    .to_vec(),
            )
        };
        let state = |status: &str| read(status, "").state;
        assert_eq!(state("delivered"), Some(SendState::Delivered));
        assert_eq!(state("undelivered"), Some(SendState::Undelivered));
        assert_eq!(state("failed"), Some(SendState::GivenUp));
        assert_eq!((state("sent"), state("queued")), (None, None));
        let failed = read("failed", "30008");
        assert_eq!((&*failed.error, &*failed.provider_id), ("30008", "SM1"));
        assert_eq!(read("failed", "<script>").error, "");
    }
}
