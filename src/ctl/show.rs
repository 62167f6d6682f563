//! Answers as an operator reads them.

use serde_json::Value;
use std::borrow::Cow;

pub fn user(answer: &Value) {
    println!("user      {}", text(&answer["user"]));
    println!("unread    {}", answer["unread"]);
    let routes = array(&answer["routes"]);
    match answer["routes"].is_null() {
        true => println!("connected unknown: the registry is away"),
        false if routes.is_empty() => println!("connected nowhere"),
        false => {}
    }
    for route in routes {
        let gateway = text(&route["gateway"]);
        println!(
            "connected {gateway} (shard {}, {})",
            route["shard"],
            life(route)
        );
    }
    for outcome in array(&answer["recent"]) {
        println!(
            "outcome   {} {} {} ({} devices, {})",
            text(&outcome["id"]),
            text(&outcome["channel"]),
            text(&outcome["state"]),
            outcome["devices"],
            said_by(outcome),
        );
    }
}

/// The gateway, or what a channel's worker made of it.
fn said_by(outcome: &Value) -> String {
    let error = outcome["error"].as_str();
    match outcome["attempts"].as_u64() {
        None => text(&outcome["gateway"]).into_owned(),
        Some(attempts) => {
            let error = error.map_or_else(String::new, |error| format!(", {error}"));
            format!("{attempts} attempts{error}")
        }
    }
}

pub fn status(answer: &Value) {
    for part in ["bus", "registry", "store"] {
        println!("{part:<9} {}", text(&answer["parts"][part]));
    }
    for (worker, why) in answer["slow"].as_object().into_iter().flatten() {
        println!("{worker:<9} SLOW: {}", text(why));
    }
    if answer["gateways"].is_null() {
        println!("gateways  unknown: the registry is away");
    }
    for gateway in array(&answer["gateways"]) {
        println!(
            "gateway   {}  shard {}  {} connections  {}",
            text(&gateway["gateway"]),
            gateway["shard"],
            gateway["connections"],
            state(gateway),
        );
    }
}

pub fn spend(answer: &Value) {
    let currency = text(&answer["currency"]);
    for channel in array(&answer["channels"]) {
        let of_budget = match channel["budget"].is_null() {
            true => "no budget".to_owned(),
            false => format!(
                "{} left of {}, {} of it for critical and codes",
                channel["left"], channel["budget"], channel["reserve"]
            ),
        };
        let (name, spent) = (text(&channel["channel"]), &channel["spent"]);
        println!("{name:<9} {spent} {currency} spent, {of_budget}");
    }
    let hours = answer["resets_in_s"].as_f64().unwrap_or_default() / 3600.0;
    println!("day       {hours:.1} h left (UTC)");
    if answer["of_fleet"] != true {
        println!("registry  away: this is what one dispatcher knows");
    }
}

/// What a gateway is to clients.
fn state(gateway: &Value) -> &'static str {
    match gateway["draining"].as_bool() {
        _ if gateway["live"] != true => life(gateway),
        Some(true) if gateway["connections"] == 0 => "drained",
        Some(true) => "draining",
        _ if gateway["accepts_limit_per_s"] == 0 => "live, takes no newcomers now",
        _ => life(gateway),
    }
}

fn life(lease: &Value) -> &'static str {
    match lease["live"].as_bool() {
        Some(true) => "live",
        _ => "LAPSED",
    }
}

fn text(value: &Value) -> Cow<'_, str> {
    printable(value.as_str().unwrap_or("-"))
}

/// In one line, and without what a terminal would carry out: some of it is the word of strangers.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|one| match one.is_control() {
        true => one.escape_default().to_string(),
        false => one.to_string(),
    });
    Cow::Owned(shown.collect())
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_word_of_a_stranger_stays_in_its_line_and_commands_no_terminal() {
        assert_eq!(printable("550 5.1.1 Größe"), "550 5.1.1 Größe");
        let forged = printable("550\nx@example.com complaint \u{1b}[2J\u{9b}0m");
        assert_eq!(forged, "550\\nx@example.com complaint \\u{1b}[2J\\u{9b}0m");
    }

    #[test]
    fn a_gateway_that_is_being_emptied_is_not_shown_as_any_other() {
        let shown = |live: bool, draining: bool, connections: u32, limit: u32| {
            state(&json!({
                "live": live, "draining": draining, "connections": connections,
                "accepts_limit_per_s": limit,
            }))
        };
        assert_eq!(shown(true, false, 7, 5_000), "live");
        assert_eq!(shown(true, true, 7, 0), "draining");
        assert_eq!(shown(true, true, 0, 0), "drained");
        assert_eq!(shown(true, false, 7, 0), "live, takes no newcomers now");
        assert_eq!(shown(false, true, 7, 0), "LAPSED");
    }
}
