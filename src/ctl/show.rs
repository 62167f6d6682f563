//! Answers as an operator reads them.

use serde_json::Value;

pub fn user(answer: &Value) {
    println!("user      {}", text(&answer["user"]));
    println!("unread    {}", answer["unread"]);
    match array(&answer["connected"]) {
        [] => println!("connected nowhere"),
        routes => {
            for route in routes {
                let state = if route["live"].as_bool() == Some(true) { "live" } else { "lapsed" };
                println!("connected {} (shard {}, {state})", text(&route["gateway"]), route["shard"]);
            }
        }
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
        let state = if answer[part].as_bool() == Some(true) { "up" } else { "AWAY" };
        println!("{part:<9} {state}");
    }
    for gateway in array(&answer["gateways"]) {
        let lapsed = if gateway["live"].as_bool() == Some(true) { "" } else { "  LAPSED" };
        println!(
            "gateway   {}  shard {}  {} connections{lapsed}",
            text(&gateway["gateway"]),
            gateway["shard"],
            gateway["connections"],
        );
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
