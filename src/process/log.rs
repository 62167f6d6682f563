//! One line per event: text on a terminal, JSON otherwise. Ids, never bodies or secrets. One place of the
//! code that suddenly says a lot is cut to [`limits::LOG_LINES_PER_S`], so that a storm does not fill the disk.

use crate::{
    config::{ConfigError, Log},
    limits,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io::IsTerminal,
    time::{Duration, Instant},
};
use tracing::{Event, Metadata, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, Filter, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    pub fn set(&self, log: &Log) -> Result<(), ConfigError> {
        let filter = filter(log)?;
        self.0
            .reload(filter)
            .map_err(|error| ConfigError::new("log.level", error.to_string()))
    }
}

/// What [`init`] would refuse.
pub fn check(log: &Log) -> Result<(), ConfigError> {
    log.check()?;
    filter(log).map(drop)
}

/// Installs the process's logger on standard error.
pub fn init(log: &Log) -> Result<LevelHandle, ConfigError> {
    check(log)?;
    let json = match log.format.as_str() {
        "json" => true,
        "text" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let (level, handle) = reload::Layer::new(filter(log)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match json {
        true => lines.json().flatten_event(true).boxed(),
        false => lines.with_target(false).boxed(),
    };
    let registry = tracing_subscriber::registry().with(level);
    registry
        .with(lines.with_filter(RateLimit::default()))
        .init();
    Ok(LevelHandle(handle))
}

/// Says how a SIGHUP went: the keys that were changed and need a restart, or what is wrong. What is found wrong
/// before anything is taken over changes nothing.
pub fn reloaded(result: Result<Vec<String>, ConfigError>) {
    match result {
        Ok(left) if left.is_empty() => tracing::info!("configuration re-read"),
        Ok(left) => tracing::warn!(
            keys = left.join(", "),
            "configuration re-read; these keys were changed and need a restart"
        ),
        Err(error) => tracing::error!(%error, "re-reading failed; going on as before"),
    }
}

/// HTTP/2 warns of each stream that a leaving peer resets; what that means to us is said where the call was
/// made. Who names it in `log.level` hears it all the same.
const QUIET: &str = "h2=error";

fn filter(log: &Log) -> Result<EnvFilter, ConfigError> {
    EnvFilter::try_new(format!("{QUIET},{}", log.level)).map_err(|error| {
        ConfigError::new(
            "log.level",
            format!("{error}: use error, warn, info, debug or trace"),
        )
    })
}

/// Lines of the running second by the place that writes them.
#[derive(Default)]
struct RateLimit {
    places: Mutex<HashMap<Identifier, (Option<Instant>, u32)>>,
}

impl RateLimit {
    fn takes(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.places.lock();
        let (since, lines) = places.entry(place).or_default();
        if since.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            (*since, *lines) = (Some(now), 0);
        }
        *lines += 1;
        *lines <= limits::LOG_LINES_PER_S
    }
}

impl<S> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.takes(event.metadata().callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_says_too_much_is_cut_and_heard_again_in_the_next_second() {
        let limit = RateLimit::default();
        let place =
            tracing::callsite!(name: "test", kind: tracing::metadata::Kind::EVENT, fields: message);
        let place = tracing::Callsite::metadata(place).callsite();
        let start = Instant::now();
        let taken = (0..1000)
            .filter(|_| limit.takes(place.clone(), start))
            .count();
        assert_eq!(taken, limits::LOG_LINES_PER_S as usize);
        assert!(limit.takes(place, start + Duration::from_secs(1)));
    }

    #[test]
    fn http_2_is_quiet_unless_it_is_named() {
        let directives = |level: &str| {
            let log = Log {
                level: level.into(),
                ..Log::default()
            };
            filter(&log).unwrap().to_string()
        };
        assert!(directives("info").contains("h2=error"));
        let named = directives("info,h2=debug");
        assert!(named.contains("h2=debug"), "{named}");
        assert!(!named.contains("h2=error"), "{named}");
    }
}
