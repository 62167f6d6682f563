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
#[path = "gateway/stream.rs"]
mod stream;
#[path = "gateway/support.rs"]
mod support;
#[path = "gateway/tls.rs"]
mod tls;
#[path = "gateway/turmoil.rs"]
mod turmoil;

/// Runs each behaviour on io_uring and on epoll; [`support::Gateway`] asserts that it is the one asked for. Those
/// of a first list run by TLS as well.
#[macro_export]
macro_rules! on_both_engines {
    (also_by_tls: $($behaviour:ident),* $(,)? $(; $($plain:ident),* $(,)?)?) => {
        $crate::on_both_engines!($($behaviour,)* $($($plain,)*)?);
        mod by_tls_on_uring {
            $(#[test] fn $behaviour() {
                $crate::stream::by_tls(|| super::$behaviour(herald::config::Engine::Uring));
            })*
        }
        mod by_tls_on_epoll {
            $(#[test] fn $behaviour() {
                $crate::stream::by_tls(|| super::$behaviour(herald::config::Engine::Epoll));
            })*
        }
    };
    ($($behaviour:ident),* $(,)?) => {
        mod on_uring {
            $(#[test] fn $behaviour() { super::$behaviour(herald::config::Engine::Uring) })*
        }
        mod on_epoll {
            $(#[test] fn $behaviour() { super::$behaviour(herald::config::Engine::Epoll) })*
        }
    };
}
