//! Nothing drops a static: what a test binary shares goes here, and with the process.

use std::{any::Any, sync::Mutex};

static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

/// Drops it when the process exits; one that is killed takes its children with it otherwise.
pub fn drop_at_exit(value: impl Send + 'static) {
    let mut kept = KEPT.lock().expect("nobody panics with it");
    if kept.is_empty() {
        // SAFETY: the function takes nothing, returns nothing and does not unwind into C.
        unsafe { libc::atexit(drop_all) };
    }
    kept.push(Box::new(value));
}

extern "C" fn drop_all() {
    let _ = std::panic::catch_unwind(|| {
        if let Ok(mut kept) = KEPT.lock() {
            kept.clear();
        }
    });
}
