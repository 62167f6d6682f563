//! The calls of librdkafka that its wrapper leaves out.

use rdkafka::{
    ClientContext,
    bindings::{rd_kafka_brokers_add, rd_kafka_error_destroy, rd_kafka_sasl_set_credentials},
    client::Client,
};
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

/// User and password for the next time a client has to show them; connections that stand stay. False: the
/// client does not use any.
pub fn set_credentials<C: ClientContext>(
    client: &Client<C>,
    username: &str,
    password: &str,
) -> bool {
    let (Ok(username), Ok(password)) = (CString::new(username), CString::new(password)) else {
        return false;
    };
    // SAFETY: the borrow keeps the client alive, the call may come from any thread and copies both strings;
    // the error it may return is ours to free, and null is allowed there.
    unsafe {
        let error = rd_kafka_sasl_set_credentials(
            client.native_ptr(),
            username.as_ptr(),
            password.as_ptr(),
        );
        rd_kafka_error_destroy(error);
        error.is_null()
    }
}
