//! The one call of librdkafka that its wrapper leaves out.

use rdkafka::{ClientContext, bindings::rd_kafka_brokers_add, client::Client};
use std::ffi::CString;

/// Gives a client brokers to ask, beside those it knows: addresses separated by commas. How many of them were
/// new to it.
///
/// The client keeps a copy of the list for as long as it lives: not to be called again and again.
pub fn add_brokers<C: ClientContext>(client: &Client<C>, brokers: &str) -> u32 {
    // A list that holds a zero byte was refused when the client was made of it.
    let Ok(brokers) = CString::new(brokers) else {
        return 0;
    };
    // SAFETY: the borrow keeps the client alive, the call may come from any thread, and both strings are
    // read before it returns.
    let added = unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    added.max(0) as u32
}
