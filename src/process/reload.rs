//! SIGHUP: the configuration is read again, what may change does, and what needs a restart is named.

use super::{Load, log};
use crate::config::{ConfigError, Reload, left_for_a_restart};

/// What to do at a SIGHUP. `take` gets the configuration as it is in force from then on; what it can't read
/// ends it there, and the operator is told.
pub fn by<T: Reload + Send + 'static>(
    load: impl Load<T>,
    started: T,
    take: impl Fn(&T) -> Result<(), ConfigError> + Send + 'static,
) -> impl FnMut() + Send + 'static {
    let mut in_force = started;
    move || {
        let reloaded = load().and_then(|fresh| {
            let next = in_force.reloaded(&fresh);
            take(&next)?;
            let left = left_for_a_restart(&next, &fresh);
            in_force = next;
            Ok(left)
        });
        log::reloaded(reloaded);
    }
}
