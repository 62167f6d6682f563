//! How fast a leaving host may send its clients away: as fast as its siblings take them, never faster.
//!
//! Pure: the siblings' leases and the second go in, a rate comes out. What a balancer does with the clients
//! is not known: it may give all of them to one sibling (`leastconn` and an empty newcomer). So the busiest
//! sibling decides, and its load, not a model of it, is steered:
//!
//! * the first rate is what the busiest sibling could take if all came to it;
//! * a rate is held until its effect shows in the leases ([`SETTLE_S`]), then scaled by how far the busiest
//!   sibling is from [`LOAD_WANTED`]. Its load is `other + share · rate`, so scaling by `wanted / load` never
//!   overshoots: what does not come from us does not scale;
//! * a sibling at its limit halves the rate at once; when every sibling is, nobody is sent;
//! * the rates of all who leave do not exceed the sum of the siblings' limits;
//! * no more are sent than the siblings have room for, less those who were sent and may not show in their leases
//!   yet: who finds no room would be refused, and was served here. Hosts that leave at once share the room.

use std::collections::VecDeque;

/// From a change of the rate until all leases show it, s: up to 1 to send and come back, 3 of measuring, 3
/// between two renewals, 1 between two looks.
const SETTLE_S: u32 = 8;
/// Of a sibling's accept limit, its own clients included. The rest is for whoever comes unasked.
const LOAD_WANTED: f64 = 0.8;
/// One step up at most: a sibling that measured a quiet moment does not decide alone.
const STEP_MAX: f64 = 2.0;
/// Not slower than this while every sibling has as much to spare, per s: a rate of next to nothing shows no
/// effect to steer by.
const RATE_MIN: u32 = 10;

/// What one sibling can take, as its lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Accepts a second it shapes to.
    pub limit_per_s: u32,
    /// Of these, not used when it looked last.
    pub spare_per_s: u32,
    /// Connections it could hold on top; `u64::MAX` when it does not say.
    pub room: u64,
}

impl Sibling {
    /// Share of its limit in use, 0 to 1.
    fn load(&self) -> f64 {
        let spare = self.spare_per_s.min(self.limit_per_s);
        1.0 - f64::from(spare) / f64::from(self.limit_per_s.max(1))
    }
}

/// The rate of one leaving host.
#[derive(Debug, Default)]
pub struct Pacer {
    /// 0: nobody is being sent.
    rate_per_s: f64,
    /// Until the last change has its effect.
    settling_s: u32,
    /// This host's part of the siblings' room, at the last look.
    room: u64,
    /// Sent in each second that the leases may not show yet.
    sent: VecDeque<u32>,
}

impl Pacer {
    /// Called once a second. `leaving` counts the hosts that drain now, this one included. Answers how many
    /// clients to send away in the coming second.
    pub fn step(&mut self, siblings: &[Sibling], leaving: u32) -> u32 {
        let room = siblings.iter().map(|sibling| sibling.room);
        self.room = room.fold(0, u64::saturating_add) / u64::from(leaving.max(1));
        while self.sent.len() >= SETTLE_S as usize {
            self.sent.pop_front();
        }
        self.steer(siblings, leaving);
        self.send()
    }

    /// The same without news of the siblings: what was right a moment ago is not wrong yet, but it is not raised, and
    /// nobody says that there is room for more.
    pub fn step_blindly(&mut self) -> u32 {
        self.send()
    }

    /// A second in which nobody is sent, for what is known of the siblings is too old. It begins anew after that.
    pub fn pause(&mut self) -> u32 {
        self.hold(0);
        self.send()
    }

    /// Sets the rate by what the siblings accept.
    fn steer(&mut self, siblings: &[Sibling], leaving: u32) {
        self.settling_s = self.settling_s.saturating_sub(1);
        let spare = siblings.iter().map(|sibling| sibling.spare_per_s);
        let (least, most) = (spare.clone().min().unwrap_or(0), spare.max().unwrap_or(0));
        if most == 0 {
            self.hold(0);
            return;
        }
        let load = siblings.iter().map(Sibling::load).fold(0.0, f64::max);
        if self.settling_s == 0 {
            self.rate_per_s = match self.rate_per_s == 0.0 {
                // All of it may land on the sibling with the least to spare.
                true => LOAD_WANTED * f64::from(least) / f64::from(leaving.max(1)),
                false => self.rate_per_s * (LOAD_WANTED / load.max(f64::EPSILON)).min(STEP_MAX),
            };
            self.settling_s = SETTLE_S;
        } else if load >= 1.0 && self.settling_s < SETTLE_S / 2 {
            self.rate_per_s /= 2.0;
            self.settling_s = SETTLE_S;
        }
        let limits = siblings
            .iter()
            .map(|sibling| f64::from(sibling.limit_per_s));
        let floor = f64::from(RATE_MIN.min(least));
        let most = limits.sum::<f64>() / f64::from(leaving.max(1));
        self.rate_per_s = self.rate_per_s.max(floor).min(most);
    }

    fn send(&mut self) -> u32 {
        let unseen = self.sent.iter().map(|sent| u64::from(*sent)).sum();
        let left = self.room.saturating_sub(unseen);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        if left < self.rate_per_s as u32 {
            // Where room comes later, it is not filled at a rate that was never tried.
            self.hold(left);
        }
        let clients = self.rate_per_s as u32;
        self.sent.push_back(clients);
        clients
    }

    fn hold(&mut self, rate_per_s: u32) {
        self.rate_per_s = f64::from(rate_per_s);
        self.settling_s = SETTLE_S;
    }
}

#[cfg(test)]
mod tests;
