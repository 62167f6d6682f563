//! Directories of templates and what they give.

use super::*;
use crate::{
    envelope::{Head, Kind, Priority},
    ids::{NotificationId, UserId},
    limits,
};
use std::fs;
use tempfile::TempDir;

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, source) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, source).unwrap();
    }
    directory
}

fn config(directory: &TempDir) -> config::Templates {
    config::Templates {
        path: Some(directory.path().to_owned()),
        ..config::Templates::default()
    }
}

fn templates(files: &[(&str, &str)]) -> Templates {
    Templates::from_config(&config(&directory(files))).unwrap()
}

/// Title, body and HTML of an order with this data.
fn show(
    templates: &Templates,
    channel: Channel,
    locale: Option<&str>,
    data: &str,
) -> Result<[String; 3], RenderError> {
    let content: Content = serde_json::from_str(&format!(
        r#"{{"type":"order","channels":[],"title":"t","body":"b","data":{data}}}"#
    ))
    .unwrap();
    let head = Head {
        kind: Kind::Notification,
        id: NotificationId::generate(),
        created_ms: 5,
        expires_ms: None,
        priority: Priority::High,
        region: "local".into(),
        again: false,
    };
    let user: UserId = "42".parse().unwrap();
    let subject = Subject {
        head: &head,
        user: Some(&user),
        content: &content,
    };
    let shown = templates.show(&subject, channel, locale)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let content = &shown.content;
    Ok([text(&content.title), text(&content.body), text(&shown.html)])
}

#[test]
fn a_template_takes_the_place_of_what_was_sent_and_may_use_it() {
    let templates = templates(&[
        (
            "order/email.en.title",
            "Order {{ data.number }}:\n {{ title }}\n",
        ),
        (
            "order/email.en.body",
            "{{ user }} {{ priority }} {{ locale }} {{ channel }}",
        ),
    ]);
    let shown = show(&templates, Channel::Email, None, r#"{"number":7}"#).unwrap();
    assert_eq!(shown, ["Order 7: t", "42 high en email", ""]);
    let push = show(&templates, Channel::Push, None, "{}").unwrap();
    assert_eq!(push, ["t", "b", ""], "it has none");
}

#[test]
fn the_nearest_language_is_taken_and_else_the_fallback() {
    let templates = templates(&[
        ("order/push.en.title", "en"),
        ("order/push.de.title", "de"),
        ("order/push.de-AT.title", "at"),
    ]);
    for (locale, title) in [
        (Some("de-AT"), "at"),
        (Some("DE-at-1996"), "at"),
        (Some("de-CH"), "de"),
        (Some("fr"), "en"),
        (None, "en"),
    ] {
        let shown = show(&templates, Channel::Push, locale, "{}").unwrap();
        assert_eq!(shown[0], title, "{locale:?}");
    }
}

#[test]
fn in_html_what_is_filled_in_is_escaped_and_in_text_it_is_not() {
    let templates = templates(&[
        ("_layout/mail.html", "<p>{% block text %}{% endblock %}</p>"),
        (
            "order/email.en.html",
            "{% extends \"_layout/mail.html\" %}{% block text %}{{ data.name }}{% endblock %}",
        ),
        ("order/email.en.body", "{{ data.name }}"),
    ]);
    let [_, body, html] = show(&templates, Channel::Email, None, r#"{"name":"<b>&"}"#).unwrap();
    assert_eq!(
        (body.as_str(), html.as_str()),
        ("<b>&", "<p>&lt;b&gt;&amp;</p>")
    );
}

#[test]
fn what_goes_wrong_is_told_with_its_line_and_without_what_was_sent() {
    let many = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let long = "{% for a in range(9999) %}0123456789{% endfor %}";
    let deep = "{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}";
    for (source, line, kind) in [
        ("one\n{{ data.name }}\n", 2, "undefined value"),
        ("{{ data.secret|secret }}", 1, "unknown filter"),
        ("{% include \"_none/x\" %}", 1, "template not found"),
        (
            "{% if data.name %}{% endif %}{{ data.name }}",
            1,
            "undefined value",
        ),
        (many, 1, "steps"),
        (long, 1, "bytes"),
        (deep, 1, "operation"),
    ] {
        let templates = templates(&[("order/push.en.body", source)]);
        let data = r#"{"secret":"s3cret"}"#;
        let error = show(&templates, Channel::Push, None, data).unwrap_err();
        let told = error.to_string();
        assert_eq!(
            error.place,
            format!("order/push.en.body:{line}"),
            "{source}: {told}"
        );
        assert!(
            told.contains(kind) && !told.contains("s3cret"),
            "{source}: {told}"
        );
    }
}

#[test]
fn data_that_can_not_be_read_fails_where_it_is_named_and_says_why() {
    let templates = templates(&[
        ("order/email.en.title", "{{ data.number }}"),
        (
            "order/push.en.title",
            "{% if data.total %}much{% else %}none{% endif %}",
        ),
        ("order/in_app.en.title", "{{ title }}"),
    ]);
    let data = r#"{"number":7,"total":1e999}"#;
    for channel in [Channel::Email, Channel::Push] {
        let error = show(&templates, channel, None, data).unwrap_err();
        let expected = format!(
            "order/{}.en.title:1: `data` can't be read: number out of range at line 1 column 25",
            channel.as_str()
        );
        assert_eq!(error.to_string(), expected);
    }
    let shown = show(&templates, Channel::InApp, None, data).unwrap();
    assert_eq!(shown[0], "t", "it names none of it");
}

#[test]
fn what_fails_in_what_is_included_is_told_there() {
    let templates = templates(&[
        ("_part/name", "Dear\n{{ data.name }}"),
        ("order/push.en.body", "\n\n{% include \"_part/name\" %}"),
    ]);
    let error = show(&templates, Channel::Push, None, "{}").unwrap_err();
    assert_eq!(error.to_string(), "_part/name:2: undefined value");
}

#[test]
fn a_directory_with_a_fault_is_refused_by_the_name_of_the_file() {
    let large = "x".repeat(limits::TEMPLATE_BYTES as usize + 1);
    for (name, source, named) in [
        ("order/push.en.body", "a\n{{ x", "order/push.en.body:2"),
        ("order/fax.en.body", "", "order/fax.en.body"),
        ("order/push.e_n.body", "", "order/push.e_n.body"),
        ("order/push.en.text", "", "order/push.en.text"),
        ("order/push.en.html", "", "order/push.en.html"),
        ("order/push.body", "", "order/push.body"),
        ("order/more/push.en.body", "", "order/more"),
        ("order/push.de.body", "", "order: has no text for push"),
        ("order/push.en.body", &large, "order/push.en.body"),
    ] {
        let refused = Templates::from_config(&config(&directory(&[(name, source)])));
        let error = refused.err().unwrap_or_else(|| panic!("{name} was taken"));
        assert_eq!(error.key, "templates.path", "{error}");
        assert!(error.problem.contains(named), "{error}");
    }
    let missing = config::Templates {
        path: Some("/nonexistent/templates".into()),
        ..config::Templates::default()
    };
    assert!(Templates::from_config(&missing).is_err());
}

#[test]
fn what_is_read_again_shows_at_once_and_a_fault_changes_nothing() {
    let directory = directory(&[("order/push.en.title", "one")]);
    let templates = Templates::from_config(&config(&directory)).unwrap();
    let running = templates.clone();
    let title = || show(&running, Channel::Push, None, "{}").unwrap()[0].clone();
    fs::write(directory.path().join("order/push.en.title"), "two").unwrap();
    assert_eq!(title(), "one");
    templates.reload(&config(&directory)).unwrap();
    assert_eq!(title(), "two");
    fs::write(directory.path().join("order/push.en.title"), "{{").unwrap();
    assert!(templates.reload(&config(&directory)).is_err());
    assert_eq!(title(), "two");
}
