//! Every order in which a sweep, the return of the gateway that was swept, its re-assertion and removals that
//! come late can reach the registry.

use crate::subject::*;
use herald::{
    ids::GatewayEpoch,
    registry::{Registration, RegistryError, SharedRegistry},
};

/// What the gateway does, in this order: its connection to one user breaks and comes back meanwhile.
const GATEWAY: [Step; 4] = [Step::Renew, Step::Reassert, Step::Reconnect, Step::Renew];
/// What arrives at any time, each in its own order.
const SWEEPER: [Step; 2] = [Step::Sweep, Step::Sweep];
const LATE: [Step; 1] = [Step::LateRemoval];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Renews; a life that is lost is replaced by a new one that enters its users.
    Renew,
    /// Anti-entropy: enters what is missing.
    Reassert,
    /// 1→0→1: a new stamp.
    Reconnect,
    Sweep,
    /// The removal of the first life's entry, sent long ago.
    LateRemoval,
}

pub async fn every_order_of_sweep_return_reassertion_and_late_removal_ends_well(subject: Subject) {
    let orders = interleavings(&[&GATEWAY, &SWEEPER, &LATE]);
    assert_eq!(orders.len(), 105);
    let registry = subject.registry(LAPSING).await;
    for (number, order) in orders.iter().enumerate() {
        let mut world = World::new(registry.clone(), number).await;
        for step in order {
            world.step(*step).await;
            world.check(order).await;
        }
        world.settle(order).await;
    }
}

/// One gateway with one user, who stays connected to it for the whole time.
struct World {
    registry: SharedRegistry,
    id: String,
    first: GatewayEpoch,
    current: GatewayEpoch,
    entry: Registration,
    /// The registry may miss the entry: it was swept, or removed late, and the gateway has not looked since.
    may_miss: bool,
}

impl World {
    async fn new(registry: SharedRegistry, number: usize) -> World {
        let id = format!("gw-{number}");
        let first = started(&registry, &id, Some(4)).await;
        let entry = entry(&format!("user-{number}"), 1);
        let entries = [entry.clone()];
        registry.register(&first, &entries).await.unwrap();
        World {
            registry,
            id,
            current: first.clone(),
            first,
            entry,
            may_miss: false,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Renew => self.renew().await,
            Step::Reassert => {
                let entries = [self.entry.clone()];
                let missing = self.registry.missing(&self.current, &entries).await;
                let entered = self.enter(&missing.unwrap()).await;
                self.may_miss &= !entered;
            }
            Step::Reconnect => {
                let new = entry(self.entry.user.as_str(), 2);
                let old = std::mem::replace(&mut self.entry, new);
                let removed = self.registry.unregister(&self.current, &[old]).await;
                removed.unwrap();
                let entered = self.enter(std::slice::from_ref(&self.entry)).await;
                self.may_miss = !entered;
            }
            Step::Sweep => {
                self.registry.sweep(1_000).await.unwrap();
                // Every lease has lapsed here: the current life is swept with the rest.
                self.may_miss = true;
            }
            Step::LateRemoval => {
                let late = entry(self.entry.user.as_str(), 1);
                let removed = self.registry.unregister(&self.first, &[late]).await;
                removed.unwrap();
                // Meant for the entry that is still there: a removal sent by the gateway itself.
                self.may_miss |= self.current == self.first && self.entry.stamp == 1;
            }
        }
    }

    async fn renew(&mut self) {
        let holder = holder(&self.id);
        let renewed = self
            .registry
            .renew_gateway(&self.current, &holder, &info(Some(4)))
            .await;
        if let Err(RegistryError::Lost { epoch }) = renewed {
            self.current = started(&self.registry, &self.id, Some(4)).await;
            assert!(self.current.epoch > epoch);
            self.may_miss = !self.enter(std::slice::from_ref(&self.entry)).await;
        }
    }

    /// False when the life turns out to be over.
    async fn enter(&self, entries: &[Registration]) -> bool {
        match self.registry.register(&self.current, entries).await {
            Ok(()) => true,
            Err(RegistryError::Lost { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn check(&self, order: &[Step]) {
        let found = lives(&self.registry, self.entry.user.as_str()).await;
        assert!(
            self.may_miss || found == std::slice::from_ref(&self.current),
            "{order:?}: {found:?}"
        );
    }

    /// The gateway renews and looks once more, the sweeper comes to its end: exactly one entry is there.
    async fn settle(&mut self, order: &[Step]) {
        self.renew().await;
        self.step(Step::Reassert).await;
        assert!(!self.may_miss, "{order:?}");
        self.check(order).await;
        let stale = self.first != self.current;
        let old = [entry(self.entry.user.as_str(), 1)];
        if stale {
            self.sweep_old_lives().await;
            let missing = self.registry.missing(&self.first, &old).await;
            assert_eq!(missing.unwrap(), old, "{order:?}");
        }
        self.check(order).await;
        let entries = [self.entry.clone()];
        let removed = self.registry.unregister(&self.current, &entries).await;
        removed.unwrap();
        let left = lives(&self.registry, self.entry.user.as_str()).await;
        assert_eq!(left, [], "{order:?}");
    }

    /// Sweeps, and takes the current life up again, since its lease has lapsed like all others here.
    async fn sweep_old_lives(&mut self) {
        self.step(Step::Sweep).await;
        self.renew().await;
    }
}

/// All ways to merge the sequences, each kept in its own order.
pub fn interleavings<S: Copy>(sequences: &[&[S]]) -> Vec<Vec<S>> {
    if sequences.iter().all(|steps| steps.is_empty()) {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for (index, steps) in sequences.iter().enumerate() {
        let [first, rest @ ..] = steps else { continue };
        let mut remaining = sequences.to_vec();
        remaining[index] = rest;
        for tail in interleavings(&remaining) {
            orders.push([&[*first], tail.as_slice()].concat());
        }
    }
    orders
}
