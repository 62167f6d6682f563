//! What a message costs, and what a channel may cost on a day. All amounts are millionths of the currency.

use crate::{
    config::{self, micros},
    dispatcher::devices::Device,
    envelope::Channel,
    limits,
};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Prices {
    sms: BTreeMap<String, u64>,
    email: u64,
    push: u64,
    a_day: BTreeMap<Channel, Budget>,
}

/// Of one channel and day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub whole: u64,
    /// Of it, for critical and codes.
    pub reserve: u64,
}

impl From<&config::Budgets> for Prices {
    fn from(config: &config::Budgets) -> Prices {
        let a_day = [
            (Channel::Sms, config.sms_a_day),
            (Channel::Email, config.email_a_day),
            (Channel::Push, config.push_a_day),
        ];
        let a_day = a_day.into_iter().filter_map(|(channel, whole)| {
            let whole = micros(whole?);
            let reserve = whole / 100 * u64::from(config.reserve_percent);
            Some((channel, Budget { whole, reserve }))
        });
        let sms = config.sms_prices.iter();
        Prices {
            sms: sms
                .map(|(prefix, price)| (prefix.clone(), micros(*price)))
                .collect(),
            email: micros(config.email_price),
            push: micros(config.push_price),
            a_day: a_day.collect(),
        }
    }
}

impl Prices {
    pub fn budget(&self, channel: Channel) -> Option<Budget> {
        self.a_day.get(&channel).copied()
    }

    /// Of so many units for a device.
    pub fn of(&self, device: &Device, units: u32) -> u64 {
        let price = match device.kind.channel() {
            Channel::InApp => 0,
            Channel::Push => self.push,
            Channel::Email => self.email,
            Channel::Sms => self.of_number(&device.address),
        };
        price * u64::from(units)
    }

    /// Of the cheapest message.
    pub fn least(&self, channel: Channel) -> u64 {
        match channel {
            Channel::InApp => 0,
            Channel::Push => self.push,
            Channel::Email => self.email,
            Channel::Sms => self.sms.values().min().copied().unwrap_or_default(),
        }
    }

    /// The longest beginning that has a price counts.
    fn of_number(&self, number: &str) -> u64 {
        let longest = number.len().min(1 + limits::PRICE_PREFIX_DIGITS);
        let beginnings = (1..=longest).rev().filter_map(|end| number.get(..end));
        let mut prices = beginnings.filter_map(|beginning| self.sms.get(beginning));
        prices.next().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_of_a_number_has_its_price() {
        let config = config::Budgets {
            sms_prices: [("+", 0.1), ("+1", 0.008), ("+1876", 0.2), ("+43", 0.07)]
                .map(|(prefix, price)| (prefix.to_owned(), price))
                .into(),
            ..config::Budgets::default()
        };
        let prices = Prices::from(&config);
        for (number, price) in [
            ("+12025550123", 8_000),
            ("+18765550123", 200_000),
            ("+436641234567", 70_000),
            ("+447700900123", 100_000),
        ] {
            assert_eq!(prices.of_number(number), price, "{number}");
        }
        assert_eq!(prices.least(Channel::Sms), 8_000);
    }

    #[test]
    fn a_budget_has_its_reserve() {
        let config = config::Budgets {
            email_a_day: Some(10.0),
            reserve_percent: 20,
            ..config::Budgets::default()
        };
        let budget = Prices::from(&config).budget(Channel::Email).unwrap();
        assert_eq!((budget.whole, budget.reserve), (10_000_000, 2_000_000));
        assert_eq!(Prices::from(&config).budget(Channel::Sms), None);
    }
}
