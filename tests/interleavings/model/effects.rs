//! What a step changes.

use super::{
    Answer, Client, Connection, Lapse, Link, Record, Router, Scenario, Stage, State, Step, Sync, p,
    row_of,
};
use herald::proto::session::CatchUp;

impl State {
    /// The world after the step.
    pub fn after(&self, scenario: &Scenario, step: Step) -> State {
        let mut next = self.clone();
        match step {
            Step::Store => {
                next.stored += scenario.batches[self.router.batch];
                next.router.advance(scenario);
            }
            Step::LookUp => {
                // A broadcast is produced here: who has noted the end before will read it.
                next.router.routes = if scenario.broadcast {
                    self.noted
                } else {
                    self.registry.map(|entry| entry.is_some())
                };
                next.router.advance(scenario);
            }
            Step::Push => next.push(scenario),
            Step::Deliver(row, gateway) => next.deliver(scenario, row, gateway, false),
            Step::DeliverTwice(row, gateway) => {
                next.repeats += 1;
                next.deliver(scenario, row, gateway, true);
            }
            Step::Shed(row, gateway) => {
                next.sheds += 1;
                next.take_record(row, gateway);
                let index = next.open_on(scenario, gateway).expect("an open connection");
                if scenario.rules.shed_is_missed {
                    next.connections[index].missed();
                }
            }
            Step::Collapse(gateway) => {
                let (older, _) = scenario.superseded.expect("two rows of one key");
                next.take_record(older, usize::from(gateway));
                next.client.cursor.cover(p(older - 1), p(older));
            }
            Step::NoteBroadcastEnd(gateway) => next.noted[gateway] = true,
            Step::Open(index) => {
                next.connections[index].link = Link::Open;
                next.ask_sync(index);
            }
            Step::Register(index) => {
                next.connections[index].registered = true;
                next.registry[scenario.gateways[index]] = Some(index);
            }
            Step::ReadStore(index) => next.read_store(scenario, index, false),
            Step::ReadStoreStale(index) => {
                next.stale_reads += 1;
                next.read_store(scenario, index, true);
            }
            Step::Answer(index) => next.answer(scenario, index),
            Step::TellBehind(index) => {
                next.connections[index].told_behind = true;
                next.client.asked_to_sync = true;
            }
            Step::AskSync(index) => {
                next.client.asked_to_sync = false;
                next.ask_sync(index);
            }
            Step::Disconnect => {
                let registered = self.connections[0].registered;
                next.client.asked_to_sync = false;
                next.connections[0] = Connection {
                    link: Link::Gone,
                    registered,
                    ..Connection::default()
                };
            }
            Step::Unregister => {
                next.connections[0].unregistered = true;
                let entry = &mut next.registry[scenario.gateways[0]];
                // Only if it still carries this connection's stamp.
                *entry = entry.filter(|&stamp| stamp != 0);
            }
            Step::LoseRegistration(index) => {
                next.registry_losses += 1;
                next.registry[scenario.gateways[index]] = None;
                next.connections[index].lapse = Lapse::Lost;
            }
            Step::RegisterAnew(index) => {
                next.registry[scenario.gateways[index]] = Some(index);
                next.connections[index].lapse.advance();
            }
            Step::CountAsBehind(index) => {
                next.connections[index].missed();
                next.connections[index].lapse.advance();
            }
        }
        next
    }

    fn push(&mut self, scenario: &Scenario) {
        let Stage::Pushing(pushed) = self.router.stage else {
            unreachable!("a push follows store and look-up");
        };
        let before: u8 = scenario.batches[..self.router.batch].iter().sum();
        self.enqueue(before + pushed + 1, self.router.routes, [false; 2]);
        self.router.advance(scenario);
    }

    fn enqueue(&mut self, row: u8, routes: [bool; 2], answered: [bool; 2]) {
        for gateway in 0..2 {
            if routes[gateway] && !answered[gateway] {
                self.put_record(Record {
                    row,
                    gateway,
                    answered,
                });
            }
        }
    }

    fn put_record(&mut self, record: Record) {
        if let Err(place) = self.records.binary_search(&record) {
            self.records.insert(place, record);
        }
    }

    fn take_record(&mut self, row: u8, gateway: usize) -> Record {
        let is_it = |record: &Record| record.row == row && record.gateway == gateway;
        let place = self.records.iter().position(is_it);
        self.records.remove(place.expect("a record on its way"))
    }

    fn deliver(&mut self, scenario: &Scenario, row: u8, gateway: usize, again: bool) {
        let record = self.take_record(row, gateway);
        if self.open_on(scenario, gateway).is_some() {
            self.client.take(scenario, row);
            if again {
                self.put_record(record);
            }
        } else if !scenario.broadcast {
            // `not_here`: on to gateways that have not answered yet.
            let mut answered = record.answered;
            answered[gateway] = true;
            let routes = self.registry.map(|entry| entry.is_some());
            self.enqueue(row, routes, answered);
        }
    }

    fn ask_sync(&mut self, index: usize) {
        let after = row_of(self.client.cursor.position());
        let connection = &mut self.connections[index];
        connection.sync = Some(Sync::Asked { after });
        connection.catch_up.asked();
    }

    fn read_store(&mut self, scenario: &Scenario, index: usize, stale: bool) {
        let Some(Sync::Asked { after }) = self.connections[index].sync else {
            unreachable!("a sync was asked for");
        };
        let rows = after + 1..=self.stored;
        let to = self.stored.min(after + scenario.page).max(after);
        let lacks_a_row = stale && !rows.is_empty();
        let items = (after + 1..=to)
            .skip(usize::from(lacks_a_row))
            .filter(|&row| !scenario.is_superseded(row, self.stored))
            .collect();
        let answer = Answer {
            items,
            range: (after, to),
            recovered: !stale || !scenario.rules.honest_recovered,
            has_more: to < self.stored,
        };
        self.connections[index].sync = Some(Sync::Read(answer));
    }

    fn answer(&mut self, scenario: &Scenario, index: usize) {
        let Some(Sync::Read(answer)) = self.connections[index].sync.take() else {
            unreachable!("the store was read");
        };
        for row in answer.items.iter() {
            self.client.take(scenario, row);
        }
        let (from, to) = answer.range;
        if answer.recovered {
            self.client.cursor.cover(p(from), p(to));
        }
        let connection = &mut self.connections[index];
        connection.greeted = true;
        let complete = answer.recovered && !answer.has_more;
        connection.catch_up.answered(complete);
        if complete && !scenario.rules.only_later_syncs_vouch {
            connection.catch_up = CatchUp::default();
        }
        if !answer.recovered {
            connection.missed();
        }
        // Still behind: it is told again.
        connection.told_behind &= !connection.catch_up.is_behind();
        if answer.has_more {
            self.ask_sync(index);
        }
    }
}

impl Router {
    fn advance(&mut self, scenario: &Scenario) {
        self.stage = match self.stage {
            Stage::Start => Stage::Half,
            Stage::Half => Stage::Pushing(0),
            Stage::Pushing(pushed) if pushed + 1 < scenario.batches[self.batch] => {
                Stage::Pushing(pushed + 1)
            }
            Stage::Pushing(_) => {
                self.batch += 1;
                Stage::Start
            }
        };
    }
}

impl Lapse {
    fn advance(&mut self) {
        *self = match self {
            Lapse::Lost => Lapse::Half,
            Lapse::None | Lapse::Half => Lapse::None,
        };
    }
}

impl Connection {
    fn missed(&mut self) {
        self.catch_up.missed();
        self.told_behind = false;
    }
}

impl Client {
    fn take(&mut self, scenario: &Scenario, row: u8) {
        self.cursor.advance(p(row - 1), p(row));
        self.received.insert(row);
        if let Some((mark, read)) = scenario.read_mark
            && mark == row
        {
            self.read.insert(read);
        }
    }
}
