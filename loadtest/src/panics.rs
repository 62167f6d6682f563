//! A thread that panics ends the run. What the first one said is kept here for the loop that follows the run, which
//! otherwise would wait for what can't come any more.

use std::{
    panic,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

static FIRST: OnceLock<String> = OnceLock::new();

/// From here on.
pub fn note() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let place = panic
            .location()
            .map_or(String::new(), |at| format!(" at {at}"));
        let why = panic.payload_as_str().unwrap_or("no reason is given");
        let _ = FIRST.set(format!(
            "thread {:?} panicked{place}: {why}",
            thread.name().unwrap_or("without a name")
        ));
        tell(panic);
    }));
}

/// What the first one said.
pub fn first() -> Option<&'static str> {
    FIRST.get().map(String::as_str)
}

/// What a thread that panicked left behind is as good as it was: only counts are shared.
pub fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_panic_is_kept_with_its_thread_and_reason_and_what_it_held_can_be_read() {
        note();
        let shared = Arc::new(Mutex::new(7));
        for number in 1..=2 {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("fails-{number}"));
            let failing = thread.spawn(move || {
                let _held = locked(&shared);
                panic!("for reason {number}");
            });
            assert!(failing.expect("a thread").join().is_err());
        }
        let said = first().expect("it was noted");
        assert!(
            said.starts_with("thread \"fails-1\" panicked at "),
            "{said}"
        );
        assert!(said.ends_with(": for reason 1"), "{said}");
        assert_eq!(*locked(&shared), 7);
    }
}
