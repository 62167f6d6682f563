//! Hours of a user's day in which nothing but what is mandatory leaves by a channel beside in-app.

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Every day on the user's clock; over midnight where `to` is before `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Hours", into = "Hours")]
pub struct QuietHours {
    from: Time,
    to: Time,
}

/// As they are written: `22:00`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hours {
    from: String,
    to: String,
}

impl TryFrom<Hours> for QuietHours {
    type Error = &'static str;

    fn try_from(hours: Hours) -> Result<QuietHours, Self::Error> {
        let time = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let number = |text: &str| (text.len() == 2).then(|| text.parse().ok()).flatten();
            Time::new(number(hour)?, number(minute)?, 0, 0).ok()
        };
        match (time(&hours.from), time(&hours.to)) {
            (Some(from), Some(to)) if from != to => Ok(QuietHours { from, to }),
            _ => Err("from and to are two times of a day, as HH:MM"),
        }
    }
}

impl From<QuietHours> for Hours {
    fn from(hours: QuietHours) -> Hours {
        let text = |time: Time| format!("{:02}:{:02}", time.hour(), time.minute());
        Hours {
            from: text(hours.from),
            to: text(hours.to),
        }
    }
}

pub fn is_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

impl QuietHours {
    /// Until their end, if it is quiet now. A zone that is not known any more has none.
    pub fn left(self, zone: &str, unix_ms: u64) -> Option<Duration> {
        let zone = TimeZone::get(zone).ok()?;
        let now = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        let local = zone.to_datetime(now);
        let (date, time) = (local.date(), local.time());
        let over_midnight = self.to < self.from;
        let is_quiet = match over_midnight {
            true => time >= self.from || time < self.to,
            false => (self.from..self.to).contains(&time),
        };
        if !is_quiet {
            return None;
        }
        let last_day = match over_midnight && time >= self.from {
            true => date.tomorrow().ok()?,
            false => date,
        };
        let end = zone.to_zoned_datetime(last_day.to_datetime(self.to)).ok()?;
        let left_ms = end.timestamp().as_millisecond() - now.as_millisecond();
        Some(Duration::from_millis(u64::try_from(left_ms).ok()?.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(from: &str, to: &str, zone: &str, now: &str) -> Option<u64> {
        let hours = Hours {
            from: from.into(),
            to: to.into(),
        };
        let now: Timestamp = now.parse().unwrap();
        let hours = QuietHours::try_from(hours).unwrap();
        let left = hours.left(zone, now.as_millisecond() as u64);
        left.map(|left| left.as_secs() / 60)
    }

    #[test]
    fn a_night_ends_in_the_morning_of_the_users_own_clock() {
        let night = |now| left("22:00", "07:00", "Europe/Vienna", now);
        assert_eq!(night("2026-11-27T20:59:00Z"), None);
        assert_eq!(night("2026-11-27T21:00:00Z"), Some(9 * 60));
        assert_eq!(night("2026-11-28T05:59:00Z"), Some(1));
        assert_eq!(night("2026-11-28T06:00:00Z"), None);
    }

    #[test]
    fn hours_within_a_day_end_on_it() {
        let noon = |now| left("12:00", "13:30", "Asia/Kolkata", now);
        assert_eq!(noon("2026-11-27T06:29:00Z"), None);
        assert_eq!(noon("2026-11-27T06:30:00Z"), Some(90));
        assert_eq!(noon("2026-11-27T08:00:00Z"), None);
    }

    #[test]
    fn a_night_in_which_the_clocks_change_is_as_long_as_it_is() {
        let night = |now| left("22:00", "07:00", "Europe/Vienna", now);
        assert_eq!(night("2026-03-28T21:00:00Z"), Some(8 * 60));
        assert_eq!(night("2026-10-24T20:00:00Z"), Some(10 * 60));
        // An end that the clocks jump over, at 01:00 UTC, is half an hour behind the jump, as it would have been.
        let skipped = left("22:00", "02:30", "Europe/Vienna", "2026-03-28T22:00:00Z");
        assert_eq!(skipped, Some(3 * 60 + 30));
    }
}
