//! How it is told: text for people and journals, JSON for scripts.

use super::needs::{Finding, Needs, mib};
use serde_json::{Map, Value, json};
use std::fmt::Write;

pub fn text(needs: &Needs, findings: &[Finding]) -> String {
    let mut text = String::new();
    let _ = memory(&mut text, needs);
    let _ = host(&mut text, findings);
    text
}

fn memory(text: &mut String, needs: &Needs) -> std::fmt::Result {
    let (connections, cores) = (needs.connections, needs.cores);
    let (idle, worst) = (
        needs.contract.idle(connections),
        needs.contract.worst(connections, needs.budget_bytes),
    );
    writeln!(
        text,
        "memory of {connections} connections on {cores} cores, MiB\n"
    )?;
    writeln!(text, "{:<16}{:>10}{:>24}", "", "idle", "all bounds at once")?;
    let in_mib = |bytes: u64| bytes.div_ceil(1 << 20);
    for ((kind, idle), (_, worst)) in idle.by_kind().zip(worst.by_kind()) {
        writeln!(
            text,
            "{:<16}{:>10}{:>24}",
            kind.as_str(),
            in_mib(idle),
            in_mib(worst)
        )?;
    }
    let (idle, worst) = (idle.total(), worst.total());
    writeln!(
        text,
        "{:<16}{:>10}{:>24}",
        "total",
        in_mib(idle),
        in_mib(worst)
    )?;
    let each = idle.saturating_sub(needs.contract.idle(0).total()) / connections;
    let budget = needs.budget_bytes;
    writeln!(
        text,
        "\nanother idle connection takes {each} B; the budget is {}: {} idle connections\n",
        mib(budget),
        needs.contract.connections_max(budget)
    )
}

fn host(text: &mut String, findings: &[Finding]) -> std::fmt::Result {
    let serious = findings.iter().filter(|finding| finding.is_serious).count();
    let advice = findings.len() - serious;
    match findings.len() {
        0 => writeln!(text, "this host has what they need")?,
        _ => writeln!(
            text,
            "this host: {serious} stand against it, {advice} are advice"
        )?,
    }
    for finding in findings {
        let weight = if finding.is_serious {
            "SERIOUS"
        } else {
            "advice"
        };
        writeln!(
            text,
            "\n{weight}  {}\n         why:  {}\n         mend: {}",
            finding.what, finding.why, finding.mend
        )?;
    }
    Ok(())
}

pub fn json(needs: &Needs, findings: &[Finding]) -> Value {
    let by_kind = |footprint: crate::memory::Footprint| {
        let mut kinds: Map<String, Value> = footprint
            .by_kind()
            .map(|(kind, bytes)| (kind.as_str().to_owned(), bytes.into()))
            .collect();
        kinds.insert("total".into(), footprint.total().into());
        kinds
    };
    json!({
        "connections": needs.connections,
        "cores": needs.cores,
        "memory_budget_bytes": needs.budget_bytes,
        "memory_idle_bytes": by_kind(needs.contract.idle(needs.connections)),
        "memory_worst_bytes": by_kind(needs.contract.worst(needs.connections, needs.budget_bytes)),
        "connections_max": needs.contract.connections_max(needs.budget_bytes),
        "findings": findings,
    })
}
