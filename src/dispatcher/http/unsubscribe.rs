//! What the link in a mail leads to: a page that asks, and the one click that ends the likes of it (RFC 8058). Whoever has
//! the link may, without a key.

use super::{Shared, extract::PathText};
use crate::{
    dispatcher::{channel::email::unsubscribe::Wish, store::StoreError},
    envelope::Channel,
};
use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// Changes nothing: programs that guard mailboxes open every link.
pub async fn ask(State(shared): State<Shared>, PathText(token): PathText) -> Response {
    let Some(wish) = wish(&shared, &token) else {
        return unknown();
    };
    let text = format!(
        "<p>Do you want no more e-mails of the kind “{}”?</p>\n<form method=\"post\"><button name=\"List-Unsubscribe\" value=\"One-Click\">Unsubscribe</button></form>",
        escaped(&wish.notification_type)
    );
    page(StatusCode::OK, &text)
}

/// Whatever the body says. Done twice, it is done.
pub async fn unsubscribe(State(shared): State<Shared>, PathText(token): PathText) -> Response {
    let Some(wish) = wish(&shared, &token) else {
        return unknown();
    };
    if shared.rules.mandatory.is_type(&wish.notification_type) {
        let text = "<p>E-mails of this kind have to be sent and can’t be switched off.</p>";
        return page(StatusCode::CONFLICT, text);
    }
    match switch_off(&shared, &wish).await {
        Ok(()) => page(
            StatusCode::OK,
            "<p>You get no more e-mails of this kind.</p>",
        ),
        Err(error) => {
            tracing::warn!(%error, "nobody can unsubscribe");
            let text = "<p>That did not work. Please try again in a few minutes.</p>";
            let mut response = page(StatusCode::SERVICE_UNAVAILABLE, text);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, 60.into());
            response
        }
    }
}

async fn switch_off(shared: &Shared, wish: &Wish) -> Result<(), StoreError> {
    let (user, of_type) = (&wish.user, wish.notification_type.as_str());
    if let Some(mail) = wish.mail {
        let erasure = shared.store.erasure(user).await?;
        // Who was forgotten since gets none, and nothing of the user is stored once more.
        if erasure.is_some_and(|(erasure, _)| erasure.covers_mail(mail)) {
            return Ok(());
        }
    }
    let switched = shared.store.switch_off(user, of_type, Channel::Email);
    switched.await?;
    tracing::info!(%user, notification_type = of_type, "unsubscribed from e-mail");
    shared.metrics.unsubscribed.inc();
    Ok(())
}

fn wish(shared: &Shared, token: &str) -> Option<Wish> {
    shared.channels.unsubscribe()?.read(token)
}

fn unknown() -> Response {
    let text = "<p>This link is not complete, or no longer good.</p>";
    page(StatusCode::NOT_FOUND, text)
}

fn page(status: StatusCode, text: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>E-mails</title>\n{text}\n</html>\n"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, html).into_response()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}
