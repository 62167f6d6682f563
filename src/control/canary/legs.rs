//! The legs of a probe's round, and which of them is stuck. Pure: what happened is told, time too.
//!
//! Invariants:
//! * a leg is stuck only after [`limits::CANARY_STUCK`] in which it did not move, and where the other end is
//!   a shared part, only if that answered during the second half of the time: else the fault is not ours;
//! * time is what this process was there for: a pause, however long, counts as one [`limits::CANARY_LAPSE`],
//!   so a process that was stopped, or had no CPU, finds nothing stuck when it comes back;
//! * a backlog is not stuck: the read position moves.

use crate::limits;
use std::time::Duration;

/// How many partitions a gateway reads.
pub const TOPICS: usize = 2;

/// One wait for something.
#[derive(Clone, Copy, Debug, Default)]
struct Leg {
    since: Option<Duration>,
    /// The shared part at the other end answered another way while this waited.
    vouched: bool,
}

impl Leg {
    fn begin(&mut self, now: Duration) {
        if self.since.is_none() {
            self.restart(now);
        }
    }

    /// It moved, or it was not its fault: it waits, from now on.
    fn restart(&mut self, now: Duration) {
        *self = Leg {
            since: Some(now),
            vouched: false,
        };
    }

    fn end(&mut self) {
        *self = Leg::default();
    }

    fn waits_for(&self, now: Duration, long: Duration) -> bool {
        self.since.is_some_and(|since| now - since >= long)
    }

    fn is_stuck(&self, now: Duration) -> bool {
        self.waits_for(now, limits::CANARY_STUCK)
    }

    fn wants_a_voucher(&self, now: Duration) -> bool {
        self.waits_for(now, limits::CANARY_STUCK / 2)
    }

    fn answered(&mut self, answers: bool, now: Duration) {
        match answers {
            _ if self.since.is_none() => {}
            true => self.vouched = true,
            false => self.restart(now),
        }
    }
}

/// Reading one partition.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// Offset of the last probe, and of the next record to read, as far as known.
    appended: Option<u64>,
    next: Option<u64>,
    leg: Leg,
}

/// One core's part of the round.
#[derive(Clone, Copy, Debug, Default)]
struct Core {
    /// Oldest probe given and not acknowledged.
    given: u64,
    answer: Leg,
    /// Without a connection there is nobody to give one to.
    absence: Leg,
}

/// What is stuck now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Cores that were given a probe which was not acknowledged.
    pub silent: Vec<u16>,
    /// Cores to which no connection can be opened.
    pub closed: Vec<u16>,
    /// Partitions, by topic, whose records are not read though the broker answers.
    pub unread: Vec<usize>,
    /// Outcomes are not accepted though a dispatcher accepts what comes another way.
    pub unaccepted: bool,
    /// No dispatcher accepts outcomes, whatever way they come.
    pub nobody_accepts: bool,
}

#[derive(Debug)]
pub struct Legs {
    now: Duration,
    readings: [Reading; TOPICS],
    cores: Vec<Core>,
    acceptance: Leg,
    nobody_accepts: bool,
    /// When a connection could not be opened last.
    refused: Option<Duration>,
}

impl Legs {
    pub fn new(cores: usize) -> Legs {
        let mut legs = Legs {
            now: Duration::ZERO,
            readings: Default::default(),
            cores: vec![Core::default(); cores],
            acceptance: Leg::default(),
            nobody_accepts: false,
            refused: None,
        };
        for core in &mut legs.cores {
            core.absence.begin(Duration::ZERO);
        }
        legs
    }

    /// Time went by.
    pub fn pass(&mut self, time: Duration) {
        self.now += time.min(limits::CANARY_LAPSE);
    }

    /// Another shard, or none: what was on its way is not waited for any more.
    pub fn start_afresh(&mut self) {
        self.readings = Default::default();
        self.acceptance.end();
        self.nobody_accepts = false;
        self.refused = None;
        for core in &mut self.cores {
            core.answer.end();
            if core.absence.since.is_some() {
                core.absence.restart(self.now);
            }
        }
    }

    /// A probe is in the partition.
    pub fn appended(&mut self, topic: usize, offset: u64) {
        let reading = &mut self.readings[topic];
        reading.appended = Some(offset);
        if reading.next.is_none_or(|next| next <= offset) {
            reading.leg.begin(self.now);
        }
    }

    /// The partition was read up to `next`.
    pub fn read(&mut self, topic: usize, next: u64) {
        let reading = &mut self.readings[topic];
        reading.next = Some(next);
        match reading.appended.is_some_and(|offset| next <= offset) {
            true => reading.leg.restart(self.now),
            false => reading.leg.end(),
        }
    }

    /// Nothing is read because too much waits for its outcome: another leg's fault.
    pub fn has_no_room(&mut self, topic: usize) {
        let leg = &mut self.readings[topic].leg;
        if leg.since.is_some() {
            leg.restart(self.now);
        }
    }

    /// The last probe there was not read yet: another one would say nothing more.
    pub fn is_unread(&self, topic: usize) -> bool {
        self.readings[topic].leg.since.is_some()
    }

    /// The broker is to be asked whether it answers for this partition.
    pub fn doubts_reading(&self, topic: usize) -> bool {
        self.readings[topic].leg.wants_a_voucher(self.now)
    }

    pub fn broker_answered(&mut self, topic: usize, answers: bool) {
        self.readings[topic].leg.answered(answers, self.now);
    }

    pub fn opened(&mut self, core: u16) {
        self.cores[usize::from(core)].absence.end();
    }

    pub fn closed(&mut self, core: u16) {
        let core = &mut self.cores[usize::from(core)];
        core.answer.end();
        core.absence.begin(self.now);
    }

    /// A connection could not be opened.
    pub fn refused(&mut self) {
        self.refused = Some(self.now);
    }

    pub fn given(&mut self, core: u16, probe: u64) {
        let core = &mut self.cores[usize::from(core)];
        if core.answer.since.is_none() {
            core.given = probe;
            core.answer.begin(self.now);
        }
    }

    pub fn acknowledged(&mut self, core: u16, probe: u64) {
        let core = &mut self.cores[usize::from(core)];
        if probe >= core.given {
            core.answer.end();
        }
    }

    /// An outcome is on its way to a dispatcher.
    pub fn reported(&mut self) {
        self.acceptance.begin(self.now);
    }

    /// A dispatcher has one.
    pub fn accepted(&mut self) {
        self.acceptance.end();
        self.nobody_accepts = false;
    }

    /// A dispatcher is to be asked whether it accepts outcomes that come another way.
    pub fn doubts_acceptance(&self) -> bool {
        self.acceptance.wants_a_voucher(self.now)
    }

    pub fn dispatcher_answered(&mut self, answers: bool) {
        self.nobody_accepts = !answers && self.acceptance.since.is_some();
        self.acceptance.answered(answers, self.now);
    }

    pub fn stuck(&self) -> Stuck {
        let now = self.now;
        let of = |is_so: &dyn Fn(&Core) -> bool| {
            let numbered = (0..).zip(&self.cores).filter(|(_, core)| is_so(core));
            numbered.map(|(number, _)| number).collect::<Vec<u16>>()
        };
        let is_refused = self
            .refused
            .is_some_and(|at| now - at < limits::CANARY_STUCK);
        let is_unread = |topic: &usize| {
            let leg = &self.readings[*topic].leg;
            leg.vouched && leg.is_stuck(now)
        };
        Stuck {
            silent: of(&|core| core.answer.is_stuck(now)),
            closed: of(&|core| is_refused && core.absence.is_stuck(now)),
            unread: (0..TOPICS).filter(is_unread).collect(),
            unaccepted: self.acceptance.vouched && self.acceptance.is_stuck(now),
            nobody_accepts: self.nobody_accepts,
        }
    }
}

#[cfg(test)]
mod tests;
