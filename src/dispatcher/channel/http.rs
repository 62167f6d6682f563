//! What providers that are asked by HTTP have in common.

use super::Answer;
use crate::{config::ConfigError, limits};
use reqwest::{
    Certificate, Client, ClientBuilder, RequestBuilder, Response, StatusCode, header::RETRY_AFTER,
    redirect::Policy,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    error::Error,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

/// By TLS only, and to nobody that an answer sends it to. `section` is the one whose `ca_file` this is.
pub fn client(
    section: &str,
    ca_file: Option<&Path>,
    at_once: usize,
) -> Result<Client, ConfigError> {
    let client = builder(&format!("{section}.ca_file"), ca_file)?
        .http2_keep_alive_interval(limits::PUSH_PING)
        .http2_keep_alive_timeout(limits::PUSH_PING_TIMEOUT)
        .pool_max_idle_per_host(at_once)
        .build();
    client.map_err(|error| ConfigError::new(section, error.to_string()))
}

/// Of such a client. `key` names the file.
pub fn builder(key: &str, ca_file: Option<&Path>) -> Result<ClientBuilder, ConfigError> {
    let builder = Client::builder()
        .https_only(true)
        .redirect(Policy::none())
        .user_agent("herald");
    let Some(path) = ca_file else {
        return Ok(builder);
    };
    let (pem, _) = authorities(key, path)?;
    let authority = Certificate::from_pem(&pem)
        .map_err(|error| ConfigError::new(key, format!("{}: {error}", path.display())))?;
    Ok(builder.tls_certs_only([authority]))
}

/// Who may sign certificates: a file of PEM, as it is and as it is understood. One that holds none would let nobody be
/// reached, which clients of TLS find out at their first connection only.
pub fn authorities(key: &str, path: &Path) -> Result<(Vec<u8>, RootCertStore), ConfigError> {
    let refused = |problem: String| ConfigError::new(key, format!("{} {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refused(format!("can't be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(io::Error::other)
            .and_then(|certificate| roots.add(certificate).map_err(io::Error::other));
        added.map_err(|error| refused(format!("is no certificate: {error}")))?;
    }
    match roots.is_empty() {
        true => Err(refused("has no certificate, as PEM".into())),
        false => Ok((pem, roots)),
    }
}

/// `host[:port]` of a URL that is only that.
pub fn host(url: &str) -> &str {
    url.trim_start_matches("https://")
}

/// What is judged of an answer: its status, how long it wants us to wait, and its body.
pub type Said = (StatusCode, Option<Duration>, Vec<u8>);

/// Or that none came.
pub async fn exchange(request: RequestBuilder) -> Result<Said, Answer> {
    let response = request.send().await.map_err(|error| away(&error))?;
    let (status, retry_after) = (response.status(), retry_after(&response));
    let body = body(response, limits::PROVIDER_ANSWER_BYTES).await;
    Ok((status, retry_after, body))
}

/// No answer came.
pub fn away(error: &reqwest::Error) -> Answer {
    Answer::Transient {
        class: "provider_away",
        reason: cause(error),
        retry_after: None,
    }
}

/// Why no answer came.
pub fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

pub fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    pause(value.to_str().ok()?, SystemTime::now())
}

/// Seconds, or a date.
pub fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// What a body begins with: it may be of any size.
pub async fn body(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < bytes_max {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    bytes.truncate(bytes_max);
    bytes
}

/// Why it failed, for people.
pub fn reason(status: StatusCode, body: &[u8]) -> String {
    let beginning = &body[..body.len().min(limits::PROVIDER_REASON_BYTES)];
    format!("{status}: {}", String::from_utf8_lossy(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(pause("120", now), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:50:07 GMT";
        assert_eq!(pause(date, now), Some(Duration::from_secs(30)));
        assert_eq!(
            pause("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(pause("soon", now), None);
    }
}
