//! Whether a provider that calls devices gone is believed: a pure function of its answers.
//!
//! Invariants:
//! * a device is deleted once its provider has taken a whole window of other messages since, within the band all the
//!   while: an episode that leaves the band costs no device, however long it takes to be noticed;
//! * a device that waits for that counts once, however often it is sent to;
//! * what is lost with the process is met again: nothing here has to be kept.

use crate::{dispatcher::devices::Device, limits};
use std::collections::VecDeque;

/// The band, and what to look at when it is left.
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// Of a window of answers, so many hundredths may call a device gone.
    pub percent_max: u8,
    pub window: usize,
    /// What is wrong most likely, for people.
    pub suspects: &'static str,
}

pub struct Band {
    usual: Usual,
    /// The last ones, a window at most; whether they called a device gone.
    answers: VecDeque<bool>,
    gone: usize,
    /// Messages that were taken, ever.
    taken: u64,
    /// Called gone, in this order; none while the band is left.
    held: VecDeque<Held>,
    is_left: bool,
}

struct Held {
    device: Device,
    /// It is deleted when so many were taken.
    until_taken: u64,
}

/// What follows from a message that was taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// These are gone indeed.
    pub forgotten: Vec<Device>,
    /// The answers are usual again.
    pub is_back: bool,
}

/// What follows from an answer that calls a device gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It waits.
    Held,
    /// With this one the band was left: all that wait are to be put in quarantine.
    Leaves(Vec<Device>),
    /// It was left before: this one as well.
    Left,
}

impl Band {
    pub fn new(usual: Usual) -> Band {
        Band {
            usual,
            answers: VecDeque::new(),
            gone: 0,
            taken: 0,
            held: VecDeque::new(),
            is_left: false,
        }
    }

    pub fn taken(&mut self, device: &Device) -> Taken {
        self.held.retain(|held| !is_same(&held.device, device));
        self.note(false);
        self.taken += 1;
        let is_back = self.is_left && !self.is_over();
        self.is_left &= !is_back;
        let mut forgotten = Vec::new();
        while let Some(held) = self
            .held
            .pop_front_if(|held| held.until_taken <= self.taken)
        {
            forgotten.push(held.device);
        }
        Taken { forgotten, is_back }
    }

    pub fn gone(&mut self, device: &Device) -> Doubt {
        if self.is_left {
            self.note(true);
            return Doubt::Left;
        }
        // What was entered anew meanwhile begins anew, and its answer counts.
        if self.held.iter().any(|held| held.device == *device) {
            return Doubt::Held;
        }
        self.held.retain(|held| !is_same(&held.device, device));
        self.note(true);
        if self.held.len() < limits::GONE_HELD {
            self.held.push_back(Held {
                device: device.clone(),
                until_taken: self.taken + self.usual.window as u64,
            });
        }
        self.is_left = self.is_over();
        match self.is_left {
            false => Doubt::Held,
            true => Doubt::Leaves(self.held.drain(..).map(|held| held.device).collect()),
        }
    }

    /// Of how many answers so many called a device gone.
    pub fn seen(&self) -> (usize, usize) {
        (self.gone, self.answers.len())
    }

    fn note(&mut self, is_gone: bool) {
        if self.answers.len() >= self.usual.window {
            let oldest = self.answers.pop_front();
            self.gone -= usize::from(oldest == Some(true));
        }
        self.answers.push_back(is_gone);
        self.gone += usize::from(is_gone);
    }

    /// A few say nothing.
    fn is_over(&self) -> bool {
        let few = limits::GONE_FEW.min(self.usual.window / 2);
        let most = self.answers.len() * usize::from(self.usual.percent_max);
        self.gone >= few && self.gone * 100 > most
    }
}

fn is_same(one: &Device, other: &Device) -> bool {
    (&one.user, &one.id) == (&other.user, &other.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::devices::DeviceKind;

    fn band(percent_max: u8, window: usize) -> Band {
        Band::new(Usual {
            percent_max,
            window,
            suspects: "",
        })
    }

    fn device(number: usize) -> Device {
        Device {
            user: number.to_string().parse().unwrap(),
            id: "phone".parse().unwrap(),
            kind: DeviceKind::Fcm,
            address: format!("token {number}"),
            secret: String::new(),
            updated_ms: 5,
            quarantined_ms: None,
        }
    }

    /// Answers for other devices, all taken.
    fn take(band: &mut Band, count: usize) -> Vec<Device> {
        let taken = (0..count).map(|n| band.taken(&device(1_000_000 + n)));
        taken.flat_map(|taken| taken.forgotten).collect()
    }

    #[test]
    fn a_device_is_deleted_when_a_window_of_others_was_taken_since() {
        let mut band = band(10, 100);
        assert_eq!(band.gone(&device(1)), Doubt::Held);
        assert_eq!(take(&mut band, 99), []);
        assert_eq!(take(&mut band, 1), [device(1)]);
        assert_eq!(take(&mut band, 300), []);
    }

    #[test]
    fn of_a_provider_that_calls_all_gone_no_device_is_lost() {
        for healthy in [0, 1, 5_000] {
            let mut band = band(10, 1_000);
            take(&mut band, healthy);
            let mut kept = Vec::new();
            for n in 0..5_000 {
                match band.gone(&device(n)) {
                    Doubt::Held => {}
                    Doubt::Leaves(held) => kept.extend(held),
                    Doubt::Left => kept.push(device(n)),
                }
            }
            assert_eq!(kept, (0..5_000).map(device).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_episode_in_part_of_the_answers_costs_none_either() {
        // Of every six answers one, after a time of health: noticed late, and still in time.
        let mut band = band(10, 1_000);
        take(&mut band, 5_000);
        let (mut lost, mut kept) = (Vec::new(), 0);
        for n in 0..1_000 {
            match band.gone(&device(n)) {
                Doubt::Held => {}
                Doubt::Leaves(held) => kept += held.len(),
                Doubt::Left => kept += 1,
            }
            lost.extend(take(&mut band, 5));
        }
        assert_eq!((lost, kept), (vec![], 1_000));
    }

    #[test]
    fn a_trickle_stays_within_the_band_and_a_few_say_nothing() {
        let mut few = band(10, 1_000);
        for n in 0..limits::GONE_FEW - 1 {
            assert_eq!(few.gone(&device(n)), Doubt::Held);
        }
        assert_eq!(take(&mut few, 999), []);

        let (mut band, mut forgotten) = (band(10, 1_000), Vec::new());
        for n in 0..1_000 {
            assert_eq!(band.gone(&device(n)), Doubt::Held);
            forgotten.extend(take(&mut band, 12));
        }
        forgotten.extend(take(&mut band, 1_000));
        assert_eq!(forgotten, (0..1_000).map(device).collect::<Vec<_>>());
    }

    #[test]
    fn a_device_that_waits_counts_once_and_is_let_go_when_it_is_reached_or_entered_anew() {
        let mut band = band(10, 100);
        for _ in 0..100 {
            assert_eq!(band.gone(&device(1)), Doubt::Held);
        }
        assert_eq!(band.seen(), (1, 1));
        let mut anew = device(1);
        anew.updated_ms += 1;
        take(&mut band, 50);
        assert_eq!(band.gone(&anew), Doubt::Held);
        assert_eq!(take(&mut band, 99), []);
        assert_eq!(take(&mut band, 1), [anew]);

        assert_eq!(band.gone(&device(2)), Doubt::Held);
        band.taken(&device(2));
        assert_eq!(take(&mut band, 200), []);
    }

    #[test]
    fn answers_are_usual_again_once_most_are_taken() {
        let mut band = band(10, 100);
        for n in 0..20 {
            band.gone(&device(n));
        }
        assert_eq!(band.gone(&device(20)), Doubt::Left);
        let back: Vec<usize> = (1..=300)
            .filter(|n| band.taken(&device(1_000 + n)).is_back)
            .collect();
        assert_eq!(back.len(), 1);
        assert_eq!(band.gone(&device(21)), Doubt::Held);
    }
}
