//! `[budgets]`: what the channels may cost, and what they do cost.

use super::{ConfigError, check::within};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// That all amounts are in; only shown.
    pub currency: String,
    /// Of a day (UTC), by channel; none: without a bound.
    pub sms_a_day: Option<f64>,
    pub email_a_day: Option<f64>,
    pub push_a_day: Option<f64>,
    /// Of each budget: kept for `critical` and codes.
    pub reserve_percent: u8,
    /// Of one part of a text message, by the beginning of its number; `+` is every other.
    pub sms_prices: BTreeMap<String, f64>,
    /// Of one message to one device.
    pub email_price: f64,
    pub push_price: f64,
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets {
            currency: "USD".into(),
            sms_a_day: None,
            email_a_day: None,
            push_a_day: None,
            reserve_percent: limits::BUDGET_RESERVE_PERCENT,
            sms_prices: BTreeMap::new(),
            email_price: 0.0,
            push_price: 0.0,
        }
    }
}

impl Budgets {
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| Err(ConfigError::new(key, problem));
        let is_code = |c: char| c.is_ascii_uppercase();
        if self.currency.len() != 3 || !self.currency.chars().all(is_code) {
            return wrong("budgets.currency", "is no code of ISO 4217, e.g. \"EUR\"");
        }
        let percent = limits::BUDGET_RESERVE_PERCENT_ALLOWED;
        within("budgets.reserve_percent", self.reserve_percent, percent)?;
        amount("budgets.email_price", self.email_price)?;
        amount("budgets.push_price", self.push_price)?;
        for (prefix, price) in &self.sms_prices {
            let key = format!("budgets.sms_prices.{prefix:?}");
            let digits = prefix.strip_prefix('+').unwrap_or("none");
            let is_prefix = digits.len() <= limits::PRICE_PREFIX_DIGITS
                && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !is_prefix {
                let problem = "is no beginning of a number: + and at most 8 digits, e.g. \"+43\"; \"+\" is every other";
                return wrong(&key, problem);
            }
            amount(&key, *price)?;
        }
        if self.sms_prices.len() > limits::PRICES {
            let problem = format!("has more than {} prices", limits::PRICES);
            return wrong("budgets.sms_prices", &problem);
        }
        let others = self.sms_prices.contains_key("+");
        if !others && (!self.sms_prices.is_empty() || self.sms_a_day.is_some()) {
            let problem =
                "lacks \"+\", the price of every other number: without it they would cost nothing";
            return wrong("budgets.sms_prices", problem);
        }
        let budgets = [
            ("sms", self.sms_a_day, 1.0),
            ("email", self.email_a_day, self.email_price),
            ("push", self.push_a_day, self.push_price),
        ];
        for (channel, a_day, price) in budgets {
            let Some(a_day) = a_day else { continue };
            amount(&format!("budgets.{channel}_a_day"), a_day)?;
            if price <= 0.0 {
                let problem =
                    format!("is needed with budgets.{channel}_a_day: it would bound nothing");
                return wrong(&format!("budgets.{channel}_price"), &problem);
            }
        }
        Ok(())
    }
}

/// In millionths of the currency.
pub fn micros(amount: f64) -> u64 {
    (amount * 1e6).round() as u64
}

fn amount(key: &str, amount: f64) -> Result<(), ConfigError> {
    let most = limits::AMOUNT_MAX;
    match amount.is_finite() && (0.0..=most).contains(&amount) {
        true => Ok(()),
        false => Err(ConfigError::new(
            key,
            format!("{amount} is not allowed: 0 to {most}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<String> {
        let budgets: Budgets = toml::from_str(text).unwrap();
        budgets.check().err().map(|error| error.key)
    }

    #[test]
    fn what_bounds_nothing_or_is_no_amount_is_refused_by_its_key() {
        for (text, key) in [
            ("currency = \"euro\"", "budgets.currency"),
            ("reserve_percent = 101", "budgets.reserve_percent"),
            ("sms_a_day = 5", "budgets.sms_prices"),
            ("sms_prices = { \"+43\" = 1 }", "budgets.sms_prices"),
            (
                "sms_prices = { \"+\" = 1, \"43\" = 1 }",
                "budgets.sms_prices.\"43\"",
            ),
            ("sms_prices = { \"+\" = -1 }", "budgets.sms_prices.\"+\""),
            (
                "sms_a_day = -1\nsms_prices = { \"+\" = 1 }",
                "budgets.sms_a_day",
            ),
            ("email_a_day = 5", "budgets.email_price"),
            ("push_a_day = 5", "budgets.push_price"),
            ("push_price = nan", "budgets.push_price"),
        ] {
            assert_eq!(refused(text).as_deref(), Some(key), "{text}");
        }
        assert_eq!(refused(""), None);
        let all = "sms_a_day = 5\nsms_prices = { \"+\" = 0.1, \"+43\" = 0.05 }\nemail_a_day = 1\nemail_price = 0.0001";
        assert_eq!(refused(all), None);
    }
}
