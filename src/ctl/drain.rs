//! `herald ctl drain` and `rebalance`: empties a gateway, shows how far it is, takes it back.

use super::{CtlError, Endpoint, connection::path_segment};
use clap::Args;
use serde_json::{Value, json};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Between two looks at a drain that is followed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Without an answer for so long, watching ends.
const UNHEARD_MAX: Duration = Duration::from_secs(30);
/// Of the progress bar, in characters.
const BAR: usize = 30;

#[derive(Debug, Args)]
pub struct Drain {
    /// Id of the gateway.
    gateway: String,
    /// Who is still there after so many seconds, 1 to 3600, is sent away at once; default: drain.deadline_ms.
    #[arg(long = "deadline", value_name = "SECONDS")]
    deadline_s: Option<u64>,
    /// Show how far it is, and change nothing.
    #[arg(long, conflicts_with_all = ["cancel", "deadline_s"])]
    status: bool,
    /// Take clients again.
    #[arg(long, conflicts_with = "deadline_s")]
    cancel: bool,
    /// Though the other gateways have no room for its clients, or there is none.
    #[arg(long, conflicts_with_all = ["status", "cancel"])]
    force: bool,
    /// Don't stay until it is empty.
    #[arg(long)]
    no_wait: bool,
}

pub async fn run(endpoint: &Endpoint, drain: Drain, as_json: bool) -> Result<(), CtlError> {
    let path = format!("/v1/gateways/{}/drain", path_segment(&drain.gateway));
    let show = |answer: &Value| match as_json {
        true => println!("{answer:#}"),
        false => println!("{}", line(answer)),
    };
    if drain.status {
        show(&endpoint.request(&path).await?);
        return Ok(());
    }
    if drain.cancel {
        show(&endpoint.delete(&path).await?);
        return Ok(());
    }
    let mut body = json!({ "force": drain.force });
    if let Some(seconds) = drain.deadline_s {
        body["deadline_s"] = seconds.into();
    }
    let mut answer = endpoint.post(&path, &body, None).await?;
    if !drain.no_wait && !as_json {
        answer = follow(endpoint, &path, answer).await?;
    }
    show(&answer);
    Ok(())
}

/// Until the gateway is empty. `began`: the answer to the order.
async fn follow(endpoint: &Endpoint, path: &str, began: Value) -> Result<Value, CtlError> {
    let redraws = std::io::stdout().is_terminal();
    let clear = || {
        if redraws {
            // Back to the start of the line.
            print!("\r\x1b[K");
        }
    };
    let process = began["process"].as_str().unwrap_or_default();
    let mut answer = began.clone();
    let mut heard = Instant::now();
    let mut is_said = false;
    while answer["phase"] != "empty" {
        if redraws {
            clear();
            print!("{}", line(&answer));
            let _ = std::io::stdout().flush();
        }
        tokio::time::sleep(LOOK_EVERY).await;
        answer = match endpoint.request(path).await {
            Ok(answer) => answer,
            Err(error) if !passes(&error) => return Err(error),
            Err(error) if heard.elapsed() >= UNHEARD_MAX => {
                clear();
                return Err(unheard(&began["gateway"], error));
            }
            Err(error) => {
                if !std::mem::replace(&mut is_said, true) {
                    clear();
                    eprintln!("how far it is can't be told now ({error}); still watching");
                }
                continue;
            }
        };
        heard = Instant::now();
        is_said = false;
        // One of an older release does not say.
        if !process.is_empty() && answer["process"] != process {
            clear();
            return Err(CtlError::Other(
                "the gateway was restarted: its drain is over, and it takes clients again; order it anew if it is to be empty"
                    .into(),
            ));
        }
        if answer["phase"] == "serving" {
            clear();
            return Err(CtlError::Other("the drain was cancelled".into()));
        }
    }
    clear();
    Ok(answer)
}

/// Whether the next look may tell more: a dispatcher that restarts, a registry or a gateway that does not answer.
fn passes(error: &CtlError) -> bool {
    match error {
        CtlError::Unreachable { .. } => true,
        CtlError::Refused { status, .. } => matches!(status, 502..=504),
        _ => false,
    }
}

fn unheard(gateway: &Value, last: CtlError) -> CtlError {
    let (seconds, id) = (UNHEARD_MAX.as_secs(), gateway.as_str().unwrap_or("<id>"));
    CtlError::Other(format!(
        "nothing was heard of the drain for {seconds} s ({last}). It goes on for as long as the gateway runs: `herald ctl drain {id} --status` shows how far it is"
    ))
}

pub async fn rebalance(endpoint: &Endpoint, as_json: bool) -> Result<(), CtlError> {
    let answer = endpoint.post("/v1/rebalance", &json!({}), None).await?;
    if as_json {
        println!("{answer:#}");
        return Ok(());
    }
    for gateway in answer["gateways"].as_array().into_iter().flatten() {
        println!("{}", line(gateway));
    }
    Ok(())
}

/// `gw-1 draining [#########.....] 70 %  5,400 left at 900/s, 6 s; 2 siblings could take 3,100/s more`
fn line(answer: &Value) -> String {
    let number = |key: &str| answer[key].as_u64().unwrap_or(0);
    let text = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
    let (left, began_with) = (number("left"), number("began_with").max(1));
    let mut line = format!("{} {}", text("gateway"), text("phase"));
    if let Some(reason) = answer["reason"].as_str() {
        line += &format!(" ({reason})");
    }
    if answer["phase"] == "draining" {
        let gone = began_with.saturating_sub(left);
        let filled = (gone as usize * BAR) / began_with as usize;
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        line += &format!(" [{bar}] {} %", gone * 100 / began_with);
    }
    line += &format!("  {left} left at {}/s", number("rate_per_s"));
    if let Some(eta_s) = answer["eta_s"].as_u64() {
        line += &format!(", {eta_s} s");
    }
    if let Some(waits) = answer["waits"].as_str() {
        line += &format!(", waits: {waits}");
    }
    let spare_per_s = number("spare_per_s");
    line + &match answer["siblings"].as_u64() {
        None => "; who else takes clients is unknown: the registry is away".to_owned(),
        Some(0) => "; no other gateway takes clients".to_owned(),
        Some(1) => format!("; 1 sibling could take {spare_per_s}/s more"),
        Some(siblings) => format!("; {siblings} siblings could take {spare_per_s}/s more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_shown_with_its_rate_and_what_is_left() {
        let answer = json!({
            "gateway": "gw-1", "phase": "draining", "began_with": 1000, "left": 250,
            "rate_per_s": 50, "eta_s": 5, "siblings": 2, "spare_per_s": 800,
        });
        let bar = "#".repeat(22) + &".".repeat(8);
        assert_eq!(
            line(&answer),
            format!(
                "gw-1 draining [{bar}] 75 %  250 left at 50/s, 5 s; 2 siblings could take 800/s more"
            )
        );
    }

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        let refused = |status| CtlError::Refused {
            status,
            message: String::new(),
        };
        for status in [502, 503, 504] {
            assert!(passes(&refused(status)), "{status}");
        }
        for status in [401, 404, 409] {
            assert!(!passes(&refused(status)), "{status}");
        }
        let text = unheard(&json!("gw-1"), refused(503)).to_string();
        assert!(text.contains("It goes on"), "{text}");
        assert!(text.contains("drain gw-1 --status"), "{text}");
    }

    #[test]
    fn what_a_drain_waits_for_is_named() {
        let answer = json!({
            "gateway": "gw-1", "phase": "draining", "began_with": 10, "left": 7,
            "rate_per_s": 0, "waits": "the registry is away", "siblings": null,
        });
        let line = line(&answer);
        assert!(
            line.contains("7 left at 0/s, waits: the registry is away;"),
            "{line}"
        );
    }

    #[test]
    fn nobody_else_is_not_the_same_as_nobody_known() {
        let answer = json!({ "gateway": "gw-1", "phase": "draining", "siblings": 0 });
        assert!(line(&answer).ends_with("; no other gateway takes clients"));
        let answer = json!({ "gateway": "gw-1", "phase": "draining", "siblings": null });
        assert!(line(&answer).contains("is unknown"));
    }

    #[test]
    fn more_connections_than_it_began_with_are_no_negative_progress() {
        let answer = json!({ "phase": "draining", "began_with": 10, "left": 12 });
        assert!(line(&answer).contains(" 0 %"));
    }
}
