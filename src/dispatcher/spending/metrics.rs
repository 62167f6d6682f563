//! What is spent, in the currency of the configuration.

use super::{Known, PAID, today};
use crate::{envelope::Channel, metrics::Metrics};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use std::{collections::BTreeMap, sync::Arc};

pub struct SpendingMetrics {
    /// What met the end of a budget, by what became of it.
    pub held: IntCounterVec,
}

impl SpendingMetrics {
    pub(super) fn new(
        metrics: &Metrics,
        known: &Arc<Mutex<BTreeMap<Channel, Known>>>,
    ) -> SpendingMetrics {
        let known = known.clone();
        let spent = move || {
            let known = known.lock();
            let today = today();
            let spent = known.iter().map(|(channel, known)| {
                let sum = if known.day == today { known.sum() } else { 0 };
                (channel.as_str(), sum as f64 / 1e6)
            });
            spent.collect()
        };
        metrics.computed_by(
            "spent_today",
            "What the fleet has spent today (UTC) as this dispatcher knows it, in the currency of budgets.currency.",
            "channel",
            spent,
        );
        let held = metrics.counters(
            "over_budget_total",
            "What met the end of a day's budget, by what became of it (waits: notifications, each once; not_taken: at intake; refused: codes, at intake too; overspent: critical, and it went).",
            &["channel", "result"],
        );
        // All are there before the first: a rate sees only what grows.
        for channel in PAID.map(Channel::as_str) {
            for result in ["waits", "refused", "not_taken", "overspent"] {
                held.with_label_values(&[channel, result]);
            }
        }
        SpendingMetrics { held }
    }
}
