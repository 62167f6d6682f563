//! What `openapi.json` promises, held against every answer that a test gets.

use jsonschema::Validator;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../../src/dispatcher/http/openapi.json");
    serde_json::from_str(text).unwrap()
});

/// The same, where no object of an answer may have a field that is not described: whoever reads answers may
/// meet more one day, and a test wants to be told.
static STRICT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = DOCUMENT.clone();
    close(&mut document);
    document
});

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Panics where the answer is not as the document says; answers the operation, as "GET /v1/…", where it is one.
pub fn check(
    method: &Method,
    path: &str,
    body: Option<&Value>,
    status: u16,
    answer: &Value,
) -> Option<String> {
    let Some(template) = template(path) else {
        assert_eq!(status, 404, "{path} is not described");
        return None;
    };
    let name = format!("{method} {template}");
    let operation = &STRICT["paths"][template][method.as_str().to_lowercase()];
    if operation.is_null() {
        assert_eq!(status, 405, "{name} is not described");
        return None;
    }
    let responses = &operation["responses"];
    let exact = &responses[status.to_string()];
    let response = match exact.is_null() {
        false => exact,
        true if status >= 400 => &responses["default"],
        true => panic!("{name}: {status} is not described"),
    };
    let response = resolved(response);
    let of_json = &response["content"]["application/json"]["schema"];
    match of_json.is_null() {
        false => fits(&format!("{name} {status}"), &STRICT, of_json, answer),
        true => assert_eq!(*answer, Value::Null, "{name} {status} has a body"),
    }
    let content = &DOCUMENT["paths"][template][method.as_str().to_lowercase()]["requestBody"];
    let asked = &content["content"]["application/json"]["schema"];
    if let Some(body) = body.filter(|_| status < 300 && !asked.is_null()) {
        fits(&format!("body of {name}"), &DOCUMENT, asked, body);
    }
    Some(name)
}

fn resolved(response: &Value) -> &Value {
    match response["$ref"].as_str() {
        Some(reference) => STRICT.pointer(&reference[1..]).expect(reference),
        None => response,
    }
}

/// The one that says most of the path itself.
fn template(path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap_or_default();
    let given: Vec<&str> = path.split('/').collect();
    let literal = |template: &str| {
        let parts: Vec<&str> = template.split('/').collect();
        let is_parameter = |part: &str| part.starts_with('{');
        let mut pairs = parts.iter().zip(&given);
        let fits = parts.len() == given.len()
            && pairs.all(|(part, given)| match is_parameter(part) {
                true => !given.is_empty(),
                false => part == given,
            });
        fits.then(|| parts.iter().filter(|part| !is_parameter(part)).count())
    };
    let templates = DOCUMENT["paths"].as_object().unwrap().keys();
    let fitting = templates.filter_map(|template| Some((literal(template)?, template.as_str())));
    fitting.max().map(|(_, template)| template)
}

fn fits(what: &str, document: &Value, schema: &Value, value: &Value) {
    static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> =
        LazyLock::new(Mutex::default);
    let compile = || {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": document["components"],
        });
        Arc::new(jsonschema::validator_for(&whole).expect("a schema"))
    };
    let validator = COMPILED
        .lock()
        .entry(what.to_owned())
        .or_insert_with(compile)
        .clone();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "{what} is not as described: {errors:?}: {value:#}"
    );
}
