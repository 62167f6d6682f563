//! One notification as one channel shows it.

use super::Parts;
use crate::{
    envelope::{Channel, Content, Head},
    ids::UserId,
    limits,
};
use minijinja::{Environment, ErrorKind, Value, value::Serde};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    error::Error as _,
    io::{self, Write},
};
use thiserror::Error;

/// What is to be shown.
pub struct Subject<'a> {
    pub head: &'a Head,
    /// `None`: everyone.
    pub user: Option<&'a UserId>,
    pub content: &'a Content,
}

/// What has no template is `None`: it stays as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub title: Option<String>,
    pub body: Option<String>,
    pub html: Option<String>,
}

/// It would fail again, until the template or what is sent changes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{place}: {kind}")]
pub struct RenderError {
    /// `order/email.de.body:3`
    pub place: String,
    /// What a log may show.
    pub kind: String,
    /// In words, which may quote what was sent.
    pub reason: String,
}

/// What a template may name. What was not given is as unknown as what nobody gives.
#[derive(Serialize)]
struct Names<'a> {
    id: String,
    #[serde(rename = "type")]
    notification_type: &'a str,
    priority: &'static str,
    channel: &'static str,
    locale: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// Unix ms.
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    data: Value,
}

pub fn render(
    environment: &Environment<'static>,
    parts: &Parts,
    subject: &Subject<'_>,
    channel: Channel,
    locale: &str,
) -> Result<Rendered, RenderError> {
    let Subject {
        head,
        user,
        content,
    } = subject;
    let names = Value::from(Serde(Names {
        id: head.id.to_string(),
        notification_type: &content.notification_type,
        priority: head.priority.as_str(),
        channel: channel.as_str(),
        locale,
        user: user.map(UserId::as_str),
        created_at: head.created_ms,
        title: content.title.as_deref(),
        body: content.body.as_deref(),
        data: data(content.data.as_deref().map_or("{}", RawValue::get)),
    }));
    let part = |name: &Option<String>, bytes_max| match name {
        Some(name) => one(environment, name, &names, bytes_max).map(Some),
        None => Ok(None),
    };
    let title = part(&parts.title, limits::RENDERED_TITLE_BYTES)?;
    Ok(Rendered {
        // It is one line wherever it is shown.
        title: title.map(|title| title.split_whitespace().collect::<Vec<_>>().join(" ")),
        body: part(&parts.body, limits::RENDERED_BODY_BYTES)?,
        html: part(&parts.html, limits::RENDERED_HTML_BYTES)?,
    })
}

/// Checked at intake to be an object that nests no deeper than it may. It may hold all the same what is for its clients to read
/// only, as a number that no float holds: a template that names it fails then, and says why.
fn data(json: &str) -> Value {
    match serde_json::from_str::<serde_json::Value>(json) {
        Ok(data) => Value::from(Serde(data)),
        Err(error) => {
            let told = format!("`data` can't be read: {error}");
            minijinja::Error::new(ErrorKind::BadSerialization, told).into()
        }
    }
}

fn one(
    environment: &Environment<'static>,
    name: &str,
    names: &Value,
    bytes_max: usize,
) -> Result<String, RenderError> {
    let mut out = Bounded {
        written: Vec::new(),
        bytes_max,
    };
    let template = environment.get_template(name);
    let rendered = template.and_then(|template| {
        template
            .render_captured_to(names.clone(), &mut out)
            .map(drop)
    });
    rendered.map_err(|error| explain(name, bytes_max, &error))?;
    Ok(String::from_utf8_lossy(&out.written).into_owned())
}

fn explain(name: &str, bytes_max: usize, error: &minijinja::Error) -> RenderError {
    let error = innermost(error);
    let place = format!(
        "{}:{}",
        error.name().unwrap_or(name),
        error.line().unwrap_or(1)
    );
    let kind = match error.kind() {
        ErrorKind::WriteFailure => format!("gives more than {bytes_max} bytes"),
        ErrorKind::BadSerialization => error.detail().unwrap_or_default().to_owned(),
        ErrorKind::OutOfFuel => format!("takes more than {} steps", limits::TEMPLATE_STEPS),
        kind => kind.to_string(),
    };
    RenderError {
        reason: error.detail().unwrap_or(&kind).to_owned(),
        place,
        kind,
    }
}

/// An include, or a block, that fails says of itself only that it did.
fn innermost(error: &minijinja::Error) -> &minijinja::Error {
    let mut innermost = error;
    while let Some(cause) = innermost.source().and_then(|cause| cause.downcast_ref()) {
        innermost = cause;
    }
    innermost
}

/// Takes so much, and fails then.
struct Bounded {
    written: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
