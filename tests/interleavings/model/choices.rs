//! Which steps may come next.

use super::{Lapse, Link, Record, Scenario, Stage, State, Step, Sync};

impl State {
    /// Every step that may come next.
    pub fn steps(&self, scenario: &Scenario) -> Vec<Step> {
        let mut steps = Vec::new();
        self.router_steps(scenario, &mut steps);
        self.record_steps(scenario, &mut steps);
        for gateway in 0..2 {
            if scenario.broadcast && !self.noted[gateway] {
                steps.push(Step::NoteBroadcastEnd(gateway));
            }
        }
        for connection in 0..2 {
            self.connect_steps(scenario, connection, &mut steps);
            self.sync_steps(scenario, connection, &mut steps);
            self.lapse_steps(scenario, connection, &mut steps);
        }
        steps
    }

    fn router_steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        if self.router.batch == scenario.batches.len() {
            return;
        }
        steps.push(
            match (self.router.stage, scenario.rules.store_before_look_up) {
                (Stage::Start, true) | (Stage::Half, false) => Step::Store,
                (Stage::Start, false) | (Stage::Half, true) => Step::LookUp,
                (Stage::Pushing(_), _) => Step::Push,
            },
        );
    }

    fn record_steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        for &Record { row, gateway, .. } in &self.records {
            steps.push(Step::Deliver(row, gateway));
            if self.open_on(scenario, gateway).is_none() {
                continue;
            }
            if self.sheds < scenario.sheds {
                steps.push(Step::Shed(row, gateway));
            }
            if self.repeats < scenario.repeats {
                steps.push(Step::DeliverTwice(row, gateway));
            }
            let newer_waits = |newer| {
                self.records
                    .iter()
                    .any(|other| other.row == newer && other.gateway == gateway)
            };
            match scenario.superseded {
                Some((older, newer)) if row == older && newer_waits(newer) => {
                    steps.push(Step::Collapse(gateway as u8));
                }
                _ => {}
            }
        }
    }

    fn connect_steps(&self, scenario: &Scenario, index: usize, steps: &mut Vec<Step>) {
        let connection = &self.connections[index];
        let gateway = scenario.gateways[index];
        let follows = index == 0 || self.connections[0].link == Link::Gone;
        let may_accept =
            !scenario.broadcast || self.noted[gateway] || !scenario.rules.note_before_accepting;
        if connection.link == Link::Absent && follows && may_accept {
            steps.push(Step::Open(index));
        }
        // A gateway writes a user's entries one after the other: none of a former connection's after
        // those of the next. Two gateways know nothing of each other.
        let late = connection.link == Link::Gone && scenario.gateways[0] != scenario.gateways[1];
        let may_register = connection.link == Link::Open || late;
        if !scenario.broadcast && !connection.registered && may_register {
            steps.push(Step::Register(index));
        }
        if index == 0 && connection.link == Link::Open {
            steps.push(Step::Disconnect);
        }
        if connection.link == Link::Gone && connection.registered && !connection.unregistered {
            steps.push(Step::Unregister);
        }
    }

    fn sync_steps(&self, scenario: &Scenario, index: usize, steps: &mut Vec<Step>) {
        let connection = &self.connections[index];
        if connection.link != Link::Open {
            return;
        }
        match connection.sync {
            Some(Sync::Asked { .. }) => {
                let may_read = scenario.broadcast
                    || connection.registered
                    || !scenario.rules.register_before_reading;
                if may_read {
                    steps.push(Step::ReadStore(index));
                }
                if may_read && self.stale_reads < scenario.stale_reads {
                    steps.push(Step::ReadStoreStale(index));
                }
            }
            Some(Sync::Read(_)) => steps.push(Step::Answer(index)),
            None if self.client.cursor.has_hole() || self.client.asked_to_sync => {
                steps.push(Step::AskSync(index));
            }
            None => {}
        }
        if connection.catch_up.is_behind() && !connection.told_behind {
            steps.push(Step::TellBehind(index));
        }
    }

    fn lapse_steps(&self, scenario: &Scenario, index: usize, steps: &mut Vec<Step>) {
        let connection = &self.connections[index];
        if connection.link != Link::Open {
            return;
        }
        let holds = self.registry[scenario.gateways[index]] == Some(index);
        match (connection.lapse, scenario.rules.register_before_behind) {
            (Lapse::None, _) if holds && self.registry_losses < scenario.registry_losses => {
                steps.push(Step::LoseRegistration(index));
            }
            (Lapse::None, _) => {}
            (Lapse::Lost, true) | (Lapse::Half, false) => steps.push(Step::RegisterAnew(index)),
            (Lapse::Lost, false) | (Lapse::Half, true) => steps.push(Step::CountAsBehind(index)),
        }
    }

    pub(super) fn open_on(&self, scenario: &Scenario, gateway: usize) -> Option<usize> {
        (0..2).find(|&index| {
            scenario.gateways[index] == gateway && self.connections[index].link == Link::Open
        })
    }
}
