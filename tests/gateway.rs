//! The gateway's core threads over real sockets, on both engines, with the test in control's place.

#[path = "gateway/admission.rs"]
mod admission;
#[path = "gateway/bad_input.rs"]
mod bad_input;
#[path = "gateway/canary.rs"]
mod canary;
#[path = "gateway/closing.rs"]
mod closing;
#[path = "gateway/connect.rs"]
mod connect;
#[path = "gateway/deliver.rs"]
mod deliver;
#[path = "gateway/event_stream.rs"]
mod event_stream;
#[path = "gateway/everyone.rs"]
mod everyone;
#[path = "gateway/memory.rs"]
mod memory;
#[path = "gateway/steering.rs"]
mod steering;
#[path = "gateway/support.rs"]
mod support;
#[path = "gateway/turmoil.rs"]
mod turmoil;

/// Runs each behaviour on io_uring and on epoll; [`support::Gateway`] asserts that it is the one asked for.
#[macro_export]
macro_rules! on_both_engines {
    ($($behaviour:ident),* $(,)?) => {
        mod on_uring {
            $(#[test] fn $behaviour() { super::$behaviour(herald::config::Engine::Uring) })*
        }
        mod on_epoll {
            $(#[test] fn $behaviour() { super::$behaviour(herald::config::Engine::Epoll) })*
        }
    };
}
