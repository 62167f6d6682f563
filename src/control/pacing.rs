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
//! * no rate exceeds the sum of the siblings' limits.

/// From a change of the rate until all leases show it, s: up to 1 to send and come back, 3 of measuring, 3
/// between two renewals, 1 between two looks.
const SETTLE_S: u32 = 8;
/// Of a sibling's accept limit, its own clients included. The rest is for whoever comes unasked.
const LOAD_WANTED: f64 = 0.8;
/// One step up at most: a sibling that measured a quiet moment does not decide alone.
const STEP_MAX: f64 = 2.0;
/// Never slower than this while a sibling has room, per s: a rate of next to nothing shows no effect to
/// steer by.
const RATE_MIN: f64 = 10.0;

/// What one sibling can take, as its lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Accepts a second it shapes to.
    pub limit_per_s: u32,
    /// Of these, not used when it looked last; 0 also when it has no room for connections.
    pub spare_per_s: u32,
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
}

impl Pacer {
    /// Called once a second. `leaving` counts the hosts that drain now, this one included. Answers how many
    /// clients to send away in the coming second.
    pub fn step(&mut self, siblings: &[Sibling], leaving: u32) -> u32 {
        self.settling_s = self.settling_s.saturating_sub(1);
        let takers = siblings.iter().filter(|sibling| sibling.spare_per_s > 0);
        if takers.count() == 0 {
            self.change(0.0);
            return 0;
        }
        let load = siblings.iter().map(Sibling::load).fold(0.0, f64::max);
        if self.rate_per_s == 0.0 {
            if self.settling_s == 0 {
                self.change(first_rate(siblings, leaving));
            }
        } else if self.settling_s == 0 {
            let step = (LOAD_WANTED / load.max(f64::EPSILON)).min(STEP_MAX);
            self.change(self.rate_per_s * step);
        } else if load >= 1.0 && self.settling_s < SETTLE_S / 2 {
            self.change(self.rate_per_s / 2.0);
        }
        let limits = siblings
            .iter()
            .map(|sibling| f64::from(sibling.limit_per_s));
        self.rate_per_s = self.rate_per_s.min(limits.sum());
        self.rate_per_s as u32
    }

    pub fn rate_per_s(&self) -> u32 {
        self.rate_per_s as u32
    }

    fn change(&mut self, rate_per_s: f64) {
        self.rate_per_s = match rate_per_s == 0.0 {
            true => 0.0,
            false => rate_per_s.max(RATE_MIN),
        };
        self.settling_s = SETTLE_S;
    }
}

/// All of it may land on the sibling with the least to spare.
fn first_rate(siblings: &[Sibling], leaving: u32) -> f64 {
    let spare = siblings.iter().map(|sibling| sibling.spare_per_s).min();
    LOAD_WANTED * f64::from(spare.unwrap_or(0)) / f64::from(leaving.max(1))
}

#[cfg(test)]
mod tests;
