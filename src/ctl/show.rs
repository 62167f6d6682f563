//! Answers as an operator reads them.

use serde_json::Value;

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
            text(&outcome["gateway"]),
        );
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
            life(gateway),
        );
    }
}

fn life(lease: &Value) -> &'static str {
    match lease["live"].as_bool() {
        Some(true) => "live",
        _ => "LAPSED",
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
