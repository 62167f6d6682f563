use super::*;
use arc_swap::ArcSwap;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::io::Write;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(Into::into);
    encode(&header, claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(
        Algorithm::HS256,
        None,
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
}

fn verifier() -> Verifier {
    Verifier::hs256(&Secret::new(SECRET))
}

fn valid() -> Value {
    json!({"sub": "42", "exp": NOW + 60})
}

/// A verifier with one key file, as configured; the file may go afterwards.
fn configured(kid: Option<&str>, algorithm: &str, text: &str) -> Result<Verifier, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Verifier::from_config(&config::Auth {
        keys: vec![config::AuthKey {
            kid: kid.map(Into::into),
            algorithm: algorithm.into(),
            key_file: file.path().into(),
        }],
        ..config::Auth::default()
    })
}

/// Algorithm, private key, public key in PEM and as a JWK.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    public: String,
    jwk: Value,
}

fn pairs() -> [Pair; 3] {
    let der = |public: PublicKeyX509Der<'_>| pem("PUBLIC KEY", public.as_ref());
    let url = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);

    let pair = Ed25519KeyPair::generate().unwrap();
    let ed = Pair {
        algorithm: Algorithm::EdDSA,
        private: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()),
        public: der(pair.public_key().as_der().unwrap()),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": url(pair.public_key().as_ref())}),
    };
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let ec = Pair {
        algorithm: Algorithm::ES256,
        private: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
        public: der(pair.public_key().as_der().unwrap()),
        jwk: json!({
            "kty": "EC", "crv": "P-256", "x": url(&point[1..33]), "y": url(&point[33..]),
        }),
    };
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let rsa = Pair {
        algorithm: Algorithm::RS256,
        private: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes())
            .unwrap(),
        public: der(pair.public_key().as_der().unwrap()),
        jwk: json!({
            "kty": "RSA", "use": "sig", "alg": "RS256",
            "n": url(pair.public_key().modulus().big_endian_without_leading_zero()),
            "e": url(pair.public_key().exponent().big_endian_without_leading_zero()),
        }),
    };
    [ed, ec, rsa]
}

#[test]
fn a_minted_token_is_taken_until_its_expiry_and_the_leeway() {
    let user: UserId = "42".parse().unwrap();
    let verifier = verifier();
    let token = mint_hs256_at(&Secret::new(SECRET), &user, NOW, Duration::from_secs(60));
    let expires_unix_s = NOW + 90;
    let verified = Verified {
        user,
        expires_unix_s,
    };
    assert_eq!(verifier.verify(&token, NOW), Ok(verified.clone()));
    assert_eq!(verifier.verify(&token, expires_unix_s - 1), Ok(verified));
    assert_eq!(
        verifier.verify(&token, expires_unix_s),
        Err(AuthError::Expired)
    );
}

#[test]
fn a_key_of_every_algorithm_verifies_by_file_and_by_jwks() {
    for pair in pairs() {
        let name = format!("{:?}", pair.algorithm);
        let token = sign(pair.algorithm, None, &valid(), &pair.private);
        let by_file = configured(None, &name, &pair.public).unwrap();
        assert!(by_file.verify(&token, NOW).is_ok(), "{name}");
        let set = json!({"keys": [{"kty": "unheard of"}, pair.jwk]}).to_string();
        let by_url = verifier().with_jwks(set.as_bytes()).unwrap();
        assert!(by_url.verify(&token, NOW).is_ok(), "{name}");
        assert!(
            by_url.verify(&hs256(&valid()), NOW).is_ok(),
            "file keys stay"
        );
    }
}

#[test]
fn the_algorithm_of_a_key_is_not_the_tokens_to_choose() {
    let [ed, ..] = pairs();
    let verifier = configured(None, "EdDSA", &ed.public).unwrap();
    // The classic: an HMAC with the public key as its secret.
    let public = EncodingKey::from_secret(ed.public.as_bytes());
    let forged = sign(Algorithm::HS256, None, &valid(), &public);
    assert_eq!(
        verifier.verify(&forged, NOW),
        Err(AuthError::WrongAlgorithm)
    );
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let body = BASE64_URL_SAFE_NO_PAD.encode(valid().to_string());
    let unsigned = format!("{none}.{body}.");
    assert_eq!(verifier.verify(&unsigned, NOW), Err(AuthError::Malformed));
}

#[test]
fn a_token_is_tried_with_keys_of_its_name_only() {
    let named = configured(Some("new"), "HS256", SECRET).unwrap();
    let token = |kid| {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        sign(Algorithm::HS256, kid, &valid(), &key)
    };
    assert!(named.verify(&token(Some("new")), NOW).is_ok());
    for kid in [None, Some("old")] {
        assert_eq!(named.verify(&token(kid), NOW), Err(AuthError::UnknownKey));
    }
    let nameless = verifier();
    assert_eq!(
        nameless.verify(&token(Some("new")), NOW),
        Err(AuthError::UnknownKey)
    );
}

#[test]
fn every_refusal_says_which_rule_was_broken() {
    let mut verifier = verifier();
    let check = |verifier: &Verifier, claims: Value| verifier.verify(&hs256(&claims), NOW);
    let other = Verifier::hs256(&Secret::new("another secret of 32 bytes at le"));
    assert_eq!(check(&other, valid()), Err(AuthError::BadSignature));
    let cases = [
        (json!({"sub": "42"}), AuthError::NoExpiry),
        (json!({"exp": NOW + 60}), AuthError::NoSubject),
        (json!({"sub": "", "exp": NOW + 60}), AuthError::BadSubject),
        (json!({"sub": 42, "exp": NOW + 60}), AuthError::Malformed),
        (json!({"sub": "42", "exp": NOW - 30}), AuthError::Expired),
        (json!({"sub": "42", "exp": -1}), AuthError::Expired),
        (
            json!({"sub": "42", "exp": NOW + 60, "nbf": NOW + 31}),
            AuthError::NotYetValid,
        ),
    ];
    for (claims, error) in cases {
        assert_eq!(check(&verifier, claims.clone()), Err(error), "{claims}");
    }
    verifier.issuer = Some("us".into());
    assert_eq!(check(&verifier, valid()), Err(AuthError::WrongIssuer));
    let claims = json!({"sub": "42", "exp": NOW + 60, "iss": "us", "aud": ["other"]});
    assert!(check(&verifier, claims.clone()).is_ok());
    verifier.audience = Some("herald".into());
    assert_eq!(check(&verifier, claims), Err(AuthError::WrongAudience));
    for text in ["", "a.b", "a.b.c", "...."] {
        assert_eq!(
            verifier.verify(text, NOW),
            Err(AuthError::Malformed),
            "{text}"
        );
    }
}

#[test]
fn a_key_that_could_never_verify_is_a_configuration_error() {
    let [ed, ec, _] = pairs();
    let cases = [
        ("HS256", "short", "auth.keys[0].key_file"),
        ("RS256", "no pem", "auth.keys[0].key_file"),
        ("RS256", &ec.public, "auth.keys[0].key_file"),
        ("ES256", &ed.public, "auth.keys[0].key_file"),
        ("PS256", "", "auth.keys[0].algorithm"),
    ];
    for (algorithm, text, key) in cases {
        assert_eq!(configured(None, algorithm, text).unwrap_err().key, key);
    }
}

#[test]
fn neither_keys_nor_tokens_are_printed() {
    let printed = format!("{:?}", verifier());
    let bytes = format!("{:?}", &SECRET.as_bytes()[..4]);
    assert!(!printed.contains(&SECRET[..8]) && !printed.contains(bytes.trim_matches(['[', ']'])));
}

#[test]
fn a_set_of_keys_that_cant_verify_is_refused() {
    let verifier = verifier();
    let refused = |json: &str| verifier.with_jwks(json.as_bytes()).unwrap_err();
    assert_eq!(refused("not json"), JwksError::Malformed);
    assert_eq!(refused(r#"{"keys":[]}"#), JwksError::NoKeys);
    assert_eq!(
        refused(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#),
        JwksError::NoKeys
    );
    let [_, ec, _] = pairs();
    let mut encrypts = ec.jwk;
    encrypts["use"] = json!("enc");
    assert_eq!(
        refused(&json!({"keys": [encrypts]}).to_string()),
        JwksError::NoKeys
    );
}

#[tokio::test]
async fn a_failed_fetch_keeps_the_keys_and_is_counted() {
    use axum::{Router, http::StatusCode, routing::get};
    let [ed, ..] = pairs();
    let set = json!({"keys": [ed.jwk]}).to_string();
    let served = Arc::new(ArcSwap::from_pointee((StatusCode::OK, set)));
    let answer = served.clone();
    let app = Router::new().route(
        "/jwks",
        get(move || std::future::ready(answer.load().as_ref().clone())),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let auth = config::Auth {
        jwks_url: Some(url),
        ..config::Auth::default()
    };
    let verifier = Arc::new(ArcSwap::from_pointee(verifier()));
    let metrics = crate::metrics::Metrics::default();
    let refresher = Refresher::new(&auth, verifier.clone(), &metrics)
        .unwrap()
        .unwrap();
    let token = sign(Algorithm::EdDSA, None, &valid(), &ed.private);
    assert_eq!(
        verifier.load().verify(&token, NOW),
        Err(AuthError::WrongAlgorithm)
    );
    assert_eq!(refresher.refresh().await, Ok(()));
    assert!(verifier.load().verify(&token, NOW).is_ok());

    let bad = [
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            String::new(),
            JwksError::Status(500),
        ),
        (StatusCode::OK, "{}".into(), JwksError::Malformed),
        (
            StatusCode::OK,
            " ".repeat(limits::JWKS_BYTES + 1),
            JwksError::TooBig,
        ),
    ];
    for (status, body, error) in bad {
        served.store(Arc::new((status, body)));
        assert_eq!(refresher.refresh().await, Err(error));
        assert!(verifier.load().verify(&token, NOW).is_ok());
    }
    server.abort();
    let text = metrics.render();
    assert!(
        text.contains("herald_jwks_fetches_total{result=\"too_big\"} 1"),
        "{text}"
    );
    assert!(text.contains("herald_auth_keys 2"), "{text}");
}
