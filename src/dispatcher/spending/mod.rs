//! What the channels spend, and what holds them at their budgets.
//!
//! Invariants:
//! * a message is paid before it is handed over, and given back if its provider did not take it: the sum of a day never
//!   passes its budget, but by `critical`, which always goes;
//! * what is neither critical nor a code leaves the reserve alone;
//! * the sum is of the whole fleet, in the registry. While that is away a dispatcher goes on from the last sum it knew and
//!   adds what it pays itself, which the registry gets once it is back: so many dispatchers may together spend what was
//!   left as often. Who dies meanwhile takes with him what he had not told.

mod metrics;
mod prices;

use super::{devices::Device, fallback::Chains, intake::request::Refusal, unix_ms};
use crate::{
    config::{self, ConfigError},
    envelope::{Channel, Content, Priority},
    limits,
    metrics::Metrics,
    registry::{SharedRegistry, Spend},
};
use arc_swap::ArcSwap;
use metrics::SpendingMetrics;
use parking_lot::Mutex;
use prices::{Budget, Prices};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// What the delivery log says of a channel that there is no money for.
pub const OVER_BUDGET: &str = "over_budget";

/// The channels that cost something.
const PAID: [Channel; 3] = [Channel::Sms, Channel::Email, Channel::Push];

/// Cheap to clone.
#[derive(Clone)]
pub struct Spending(Arc<Inner>);

struct Inner {
    terms: ArcSwap<Terms>,
    chains: Chains,
    registry: SharedRegistry,
    known: Arc<Mutex<BTreeMap<Channel, Known>>>,
    metrics: SpendingMetrics,
}

struct Terms {
    currency: String,
    prices: Prices,
}

/// What is known of a channel's day.
#[derive(Clone, Copy, Default)]
struct Known {
    day: u32,
    /// Of the fleet, when the registry answered last.
    total: u64,
    /// Paid since, by this process alone.
    untold: i64,
    asked: Option<Instant>,
}

/// How far a message may go into a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Ordinary,
    Code,
    Critical,
}

/// What was paid, to be given back if it was for nothing.
#[derive(Debug, Default)]
pub struct Bill {
    day: u32,
    cost: u64,
}

/// There is no money for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverBudget {
    /// There will be in so long.
    Until(Duration),
    /// By then it is of no use.
    Refused,
}

/// A channel's day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub channel: Channel,
    pub spent: u64,
    pub budget: Option<Budget>,
}

impl Spending {
    pub fn new(
        config: &config::Budgets,
        chains: Chains,
        registry: SharedRegistry,
        metrics: &Metrics,
    ) -> Spending {
        let known = Arc::default();
        Spending(Arc::new(Inner {
            metrics: SpendingMetrics::new(metrics, &known),
            terms: ArcSwap::from_pointee(Terms::from(config)),
            chains,
            registry,
            known,
        }))
    }

    /// Prices and budgets count from now on; what was spent stays spent.
    pub fn reload(&self, config: &config::Budgets) -> Result<(), ConfigError> {
        config.check()?;
        self.0.terms.store(Arc::new(Terms::from(config)));
        Ok(())
    }

    pub fn currency(&self) -> String {
        self.0.terms.load().currency.clone()
    }

    /// Before a message of so many units goes to a device.
    pub async fn pay(
        &self,
        device: &Device,
        units: u32,
        priority: Priority,
        notification_type: &str,
    ) -> Result<Bill, OverBudget> {
        let channel = device.kind.channel();
        let (cost, budget) = {
            let terms = self.0.terms.load();
            (terms.prices.of(device, units), terms.prices.budget(channel))
        };
        if cost == 0 {
            return Ok(Bill::default());
        }
        let class = self.class(priority, notification_type);
        let day = today();
        let limit = budget.and_then(|budget| class.limit(budget));
        if self.add(channel, day, cost as i64, limit).await {
            self.note_overspent(channel, budget);
            return Ok(Bill { day, cost });
        }
        if class == Class::Ordinary {
            return Err(OverBudget::Until(until_tomorrow()));
        }
        self.count(channel, "refused");
        Err(OverBudget::Refused)
    }

    /// A notification waits for the next day's budget. It comes back many times until then, and is told once.
    pub fn waits(&self, channel: Channel) {
        self.count(channel, "waits");
    }

    fn count(&self, channel: Channel, result: &str) {
        let held = &self.0.metrics.held;
        held.with_label_values(&[channel.as_str(), result]).inc();
    }

    /// The provider has not taken it.
    pub async fn give_back(&self, channel: Channel, bill: Bill) {
        if bill.cost > 0 {
            self.add(channel, bill.day, -(bill.cost as i64), None).await;
        }
    }

    /// What nothing can be sent of today is better not taken. `critical` always can.
    pub async fn check(&self, content: &Content) -> Result<(), Refusal> {
        let class = self.class(content.priority, &content.notification_type);
        let mut over = Vec::new();
        for channel in &content.channels {
            if !self.is_over(*channel, class).await {
                return Ok(());
            }
            over.push(channel.as_str());
        }
        let result = match class {
            Class::Code => "refused",
            Class::Ordinary | Class::Critical => "not_taken",
        };
        for channel in &over {
            let held = &self.0.metrics.held;
            held.with_label_values(&[*channel, result]).inc();
        }
        Err(Refusal::OverBudget {
            channels: over.join(", "),
            retry_after_s: until_tomorrow().as_secs() as u32 + 1,
        })
    }

    async fn is_over(&self, channel: Channel, class: Class) -> bool {
        let (least, budget) = {
            let terms = self.0.terms.load();
            (terms.prices.least(channel), terms.prices.budget(channel))
        };
        match budget.and_then(|budget| class.limit(budget)) {
            Some(limit) => self.spent(channel).await + least > limit,
            None => false,
        }
    }

    pub async fn standing(&self) -> Vec<Standing> {
        let mut standing = Vec::new();
        for channel in PAID {
            let budget = self.0.terms.load().prices.budget(channel);
            let spent = self.spent(channel).await;
            standing.push(Standing {
                channel,
                spent,
                budget,
            });
        }
        standing
    }

    /// Of today, as the registry said a moment ago.
    async fn spent(&self, channel: Channel) -> u64 {
        let day = today();
        let known = self.known(channel, day);
        let is_fresh = known
            .asked
            .is_some_and(|at| at.elapsed() < limits::SPENT_AGE);
        if !is_fresh && self.0.registry.healthy() {
            self.add(channel, day, 0, None).await;
        }
        self.known(channel, day).sum()
    }

    fn class(&self, priority: Priority, notification_type: &str) -> Class {
        match priority {
            Priority::Critical => Class::Critical,
            _ if self.0.chains.is_code(notification_type) => Class::Code,
            _ => Class::Ordinary,
        }
    }

    fn known(&self, channel: Channel, day: u32) -> Known {
        let known = self.0.known.lock().get(&channel).copied();
        let fresh = Known {
            day,
            ..Known::default()
        };
        known.filter(|known| known.day == day).unwrap_or(fresh)
    }

    /// Whether there is room for it. In the fleet's sum, or in what is known of it.
    async fn add(&self, channel: Channel, day: u32, cost: i64, limit: Option<u64>) -> bool {
        let spend = |cost, limit| Spend {
            channel,
            day,
            cost,
            limit,
        };
        let registry = &self.0.registry;
        let mut untold = 0;
        if registry.healthy() {
            self.note(channel, day, |known| {
                untold = std::mem::take(&mut known.untold)
            });
        }
        if untold != 0 && registry.spend(&spend(untold, None)).await.is_err() {
            self.note(channel, day, |known| known.untold += untold);
        }
        if let Ok(spent) = registry.spend(&spend(cost, limit)).await {
            self.note(channel, day, |known| {
                known.total = spent.total;
                known.asked = Some(Instant::now());
            });
            return spent.granted;
        }
        let mut granted = true;
        self.note(channel, day, |known| {
            let sum = known.sum().saturating_add_signed(cost);
            granted = cost <= 0 || limit.is_none_or(|limit| sum <= limit);
            if granted {
                known.untold += cost;
            }
        });
        granted
    }

    fn note(&self, channel: Channel, day: u32, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.known.lock();
        let of_channel = known.entry(channel).or_default();
        // What comes late of yesterday says nothing of today.
        if of_channel.day > day {
            return;
        }
        if of_channel.day < day {
            *of_channel = Known {
                day,
                ..Known::default()
            };
        }
        change(of_channel);
    }

    fn note_overspent(&self, channel: Channel, budget: Option<Budget>) {
        let sum = self.known(channel, today()).sum();
        if budget.is_some_and(|budget| sum > budget.whole) {
            self.count(channel, "overspent");
        }
    }
}

impl From<&config::Budgets> for Terms {
    fn from(config: &config::Budgets) -> Terms {
        Terms {
            currency: config.currency.clone(),
            prices: Prices::from(config),
        }
    }
}

impl Known {
    fn sum(&self) -> u64 {
        self.total.saturating_add_signed(self.untold)
    }
}

impl Class {
    fn limit(self, budget: Budget) -> Option<u64> {
        match self {
            Class::Ordinary => Some(budget.whole - budget.reserve),
            Class::Code => Some(budget.whole),
            Class::Critical => None,
        }
    }
}

/// Since 1970, of UTC.
fn today() -> u32 {
    (unix_ms() / DAY_MS) as u32
}

pub fn until_tomorrow() -> Duration {
    Duration::from_millis(DAY_MS - unix_ms() % DAY_MS)
}
