//! Who is connected, told to the registry, as `herald::control::connect` tells it: one call at a time.

use super::GatewayDone;
use crate::world::World;
use herald::{
    control::table::PARTS,
    gateway::mailbox::ConnId,
    ids::GatewayEpoch,
    position::Cursors,
    registry::{Registration, Registry},
};
use std::collections::BTreeSet;

/// Scans between two comparisons with the registry: more often than the product, whose round takes 10 min.
const COMPARE_EVERY: u64 = 4;

/// A connection whose user is not entered yet, or may not be.
pub struct Arrival {
    pub conn: ConnId,
    pub registration: Registration,
    pub catch_up: Option<(Cursors, usize)>,
}

/// What a scan came to.
pub struct Scanned {
    owed: Option<Vec<Registration>>,
    /// Who could not be removed.
    gone: Vec<Registration>,
    missing: Option<Vec<Registration>>,
    compared_incarnation: u64,
}

impl World {
    pub fn register(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if gateway.registering {
            return;
        }
        if !gateway.arrivals.is_empty() {
            self.arrive(number);
        } else if std::mem::take(&mut gateway.scan_due) {
            self.scan(number);
        }
    }

    /// The present ownership's epoch. Under a new one everyone is owed an entry.
    fn entering_as(&mut self, number: usize) -> Option<GatewayEpoch> {
        let gateway = &mut self.gateways[number];
        let owner = gateway.ownership.as_ref()?.gateway.clone();
        if gateway.entered_as.as_ref() != Some(&owner) {
            if gateway.entered_as.is_some() {
                gateway.table.owe_everyone();
            }
            gateway.entered_as = Some(owner.clone());
        }
        Some(owner)
    }

    fn arrive(&mut self, number: usize) {
        let owner = self.entering_as(number);
        let gateway = &mut self.gateways[number];
        let arrivals = std::mem::take(&mut gateway.arrivals);
        let mut entries: Vec<Registration> = arrivals
            .iter()
            .map(|arrival| arrival.registration.clone())
            .filter(|entry| !gateway.table.is_registered(&entry.user))
            .collect();
        entries.dedup();
        let Some(owner) = owner else {
            gateway.table.owe(&entries);
            return self.registered(number, Some(Vec::new()), arrivals);
        };
        gateway.registering = true;
        let link = gateway.link();
        self.own_call(number, async move {
            let written = link.register(&owner, &entries).await;
            GatewayDone::Registered {
                confirmed: written.is_ok().then_some(entries),
                arrivals,
            }
        });
    }

    pub(super) fn registered(
        &mut self,
        number: usize,
        confirmed: Option<Vec<Registration>>,
        arrivals: Vec<Arrival>,
    ) {
        let gateway = &mut self.gateways[number];
        gateway.registering = false;
        let missed = match &confirmed {
            Some(entries) => gateway.table.confirm(entries),
            None => {
                let entries: Vec<Registration> = arrivals
                    .iter()
                    .map(|arrival| arrival.registration.clone())
                    .filter(|entry| !gateway.table.is_registered(&entry.user))
                    .collect();
                gateway.table.owe(&entries);
                Vec::new()
            }
        };
        self.tell_behind(number, missed.into_iter().collect());
        for arrival in arrivals {
            if let Some((cursors, limit)) = arrival.catch_up {
                let user = arrival.registration.user;
                self.catch_up(number, arrival.conn, &user, cursors, limit);
            }
        }
        self.register(number);
    }

    /// Who is owed an entry, who is gone, what was lost.
    fn scan(&mut self, number: usize) {
        let owner = self.entering_as(number);
        let gateway = &mut self.gateways[number];
        let (mut owed, mut gone) = (Vec::new(), Vec::new());
        for part in 0..PARTS {
            let scan = gateway.table.scan(part, usize::MAX);
            owed.extend(scan.owed);
            gone.extend(scan.gone);
        }
        let Some(owner) = owner else {
            gateway.table.keep_for_removal(&gone);
            return;
        };
        gateway.scans += 1;
        let link = gateway.link();
        let incarnation = link.incarnation();
        let compares = incarnation != gateway.compared_incarnation
            || gateway.scans.is_multiple_of(COMPARE_EVERY);
        let mut held: Vec<Registration> = match compares {
            true => (0..PARTS)
                .flat_map(|part| gateway.table.registered_in(part))
                .collect(),
            false => Vec::new(),
        };
        // The table's order is random, a run's is not.
        for list in [&mut owed, &mut gone, &mut held] {
            list.sort_by(|a, b| a.user.cmp(&b.user));
        }
        if owed.is_empty() && gone.is_empty() && held.is_empty() {
            gateway.compared_incarnation = incarnation;
            return;
        }
        gateway.registering = true;
        self.own_call(number, async move {
            if !gone.is_empty() && link.unregister(&owner, &gone).await.is_ok() {
                gone.clear();
            }
            let written = match owed.is_empty() {
                true => Ok(()),
                false => link.register(&owner, &owed).await,
            };
            let missing = match held.is_empty() {
                true => Ok(Vec::new()),
                false => link.missing(&owner, &held).await,
            };
            GatewayDone::Scanned(Box::new(Scanned {
                owed: written.is_ok().then_some(owed),
                gone,
                missing: missing.ok(),
                compared_incarnation: incarnation,
            }))
        });
    }

    pub(super) fn scanned(&mut self, number: usize, scanned: Scanned) {
        let gateway = &mut self.gateways[number];
        gateway.registering = false;
        gateway.table.keep_for_removal(&scanned.gone);
        let missed: BTreeSet<ConnId> = match &scanned.owed {
            Some(entries) => gateway.table.confirm(entries).into_iter().collect(),
            None => BTreeSet::new(),
        };
        if let Some(missing) = &scanned.missing {
            gateway.table.owe(missing);
            gateway.compared_incarnation = scanned.compared_incarnation;
        }
        let lost = scanned.missing.map_or(0, |missing| missing.len());
        if lost > 0 {
            self.tell(None, || {
                format!("gw-{number} finds {lost} users missing in the registry")
            });
        }
        self.tell_behind(number, missed);
        self.register(number);
    }
}
