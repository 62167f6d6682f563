//! Which dispatcher to ask, and how.

use super::CtlError;
use crate::config::{ConfigError, Secret};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{ClientBuilder, RequestBuilder, header::HeaderValue};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, Args)]
pub struct Endpoint {
    /// Address of a dispatcher, e.g. http://10.0.0.5:8090; default: the standalone's.
    #[arg(long, global = true, env = "HERALD_URL")]
    url: Option<String>,
    /// File with the API key.
    #[arg(long, global = true, env = "HERALD_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Data directory of the standalone.
    #[arg(long, global = true, default_value = "herald-data")]
    data_dir: PathBuf,
}

/// What the standalone leaves in its data directory for `ctl` (readable by its user only).
#[derive(Debug, Serialize, Deserialize)]
pub struct StandaloneFile {
    pub url: String,
    pub api_key_file: PathBuf,
    pub token_secret_file: PathBuf,
}

impl StandaloneFile {
    pub fn path(data: &Path) -> PathBuf {
        data.join("ctl.json")
    }
}

/// One id as one segment of a path.
pub fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Endpoint {
    pub fn standalone(&self) -> Result<StandaloneFile, CtlError> {
        let path = StandaloneFile::path(&self.data_dir);
        let missing = |problem: String| {
            ConfigError::new(
                "--data-dir",
                format!(
                    "{}: {problem}; start `herald standalone`, or name a dispatcher by --url and --api-key-file",
                    path.display()
                ),
            )
        };
        let text = std::fs::read_to_string(&path).map_err(|error| missing(error.to_string()))?;
        Ok(serde_json::from_str(&text).map_err(|error| missing(error.to_string()))?)
    }

    fn resolve(&self) -> Result<(String, Secret), CtlError> {
        let (url, key_file) = match (&self.url, &self.api_key_file) {
            (Some(url), Some(file)) => (url.clone(), file.clone()),
            (Some(_), None) => {
                return Err(ConfigError::new("--api-key-file", "is needed with --url").into());
            }
            (None, file) => {
                let standalone = self.standalone()?;
                (
                    standalone.url,
                    file.clone().unwrap_or(standalone.api_key_file),
                )
            }
        };
        let is_http = reqwest::Url::parse(&url)
            .is_ok_and(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host());
        if !is_http {
            let problem = format!("{url:?} is no address, e.g. http://10.0.0.5:8090");
            return Err(ConfigError::new("--url", problem).into());
        }
        let key = Secret::from_file("--api-key-file", &key_file)?;
        if HeaderValue::from_str(key.expose()).is_err() {
            let problem = format!("{} does not hold an API key", key_file.display());
            return Err(ConfigError::new("--api-key-file", problem).into());
        }
        Ok((url.trim_end_matches('/').to_owned(), key))
    }

    pub async fn request(&self, path: &str) -> Result<Value, CtlError> {
        let (url, key) = self.resolve()?;
        let request = client(ClientBuilder::timeout)?.get(format!("{url}{path}"));
        answer(url, request.bearer_auth(key.expose())).await
    }

    /// As it came, once it is whole.
    pub async fn request_text(&self, path: &str) -> Result<String, CtlError> {
        let (url, key) = self.resolve()?;
        let request = client(ClientBuilder::read_timeout)?.get(format!("{url}{path}"));
        let text = body(&url, request.bearer_auth(key.expose())).await?;
        match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(_) => Ok(text),
            Err(_) => Err(CtlError::Stranger { url, status: 200 }),
        }
    }

    pub async fn delete(&self, path: &str) -> Result<Value, CtlError> {
        let (url, key) = self.resolve()?;
        let request = client(ClientBuilder::timeout)?.delete(format!("{url}{path}"));
        answer(url, request.bearer_auth(key.expose())).await
    }

    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        idempotency_key: Option<String>,
    ) -> Result<Value, CtlError> {
        let (url, key) = self.resolve()?;
        let mut request = client(ClientBuilder::timeout)?
            .post(format!("{url}{path}"))
            .json(body);
        if let Some(idempotency_key) = idempotency_key {
            let idempotency_key = HeaderValue::from_str(&idempotency_key)
                .map_err(|_| ConfigError::new("--idempotency-key", "has no control characters"))?;
            request = request.header("idempotency-key", idempotency_key);
        }
        answer(url, request.bearer_auth(key.expose())).await
    }
}

/// A drain is checked, ordered and answered well within; what is long comes a part at a time.
fn client(
    limit: fn(ClientBuilder, Duration) -> ClientBuilder,
) -> Result<reqwest::Client, CtlError> {
    limit(reqwest::Client::builder(), Duration::from_secs(15))
        .build()
        .map_err(|error| CtlError::Other(error.to_string()))
}

/// The library's own text only says that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

async fn answer(url: String, request: RequestBuilder) -> Result<Value, CtlError> {
    match body(&url, request).await? {
        nothing if nothing.is_empty() => Ok(Value::Null),
        text => serde_json::from_str(&text).map_err(|_| CtlError::Stranger { url, status: 200 }),
    }
}

/// Of a success. One that broke off is an error: what is missing in it would be taken for what is not there.
async fn body(url: &str, request: RequestBuilder) -> Result<String, CtlError> {
    let response = request.send().await;
    let response = response.map_err(|error| CtlError::Unreachable {
        url: url.to_owned(),
        cause: root_cause(&error),
    })?;
    let status = response.status();
    let text = response.text().await.map_err(|error| CtlError::BrokeOff {
        url: url.to_owned(),
        cause: root_cause(&error),
    })?;
    if status.is_success() {
        return Ok(text);
    }
    let status = status.as_u16();
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    match told["error"]["message"].as_str() {
        Some(message) => Err(CtlError::Refused {
            status,
            message: message.to_owned(),
        }),
        None => Err(CtlError::Stranger {
            url: url.to_owned(),
            status,
        }),
    }
}
