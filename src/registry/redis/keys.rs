//! Names of the keys, all under the namespace.

use super::super::SendKey;
use crate::{
    envelope::Channel,
    ids::{GatewayEpoch, GatewayId, Namespace, UserId},
    limits,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a user id may keep as it is: `:` parts a key, and the rest would only confuse tools.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'@');

#[derive(Clone, Debug)]
pub(super) struct Keys {
    namespace: Namespace,
}

impl Keys {
    pub(super) fn new(namespace: &Namespace) -> Keys {
        Keys {
            namespace: namespace.clone(),
        }
    }

    /// Hash: epoch, holder, state, until, info, past.
    pub(super) fn gateway(&self, id: &GatewayId) -> String {
        format!("{}:gw:{id}", self.namespace)
    }

    /// Set of gateway ids: a scan for `gw:*` would pass every user's key.
    pub(super) fn gateways(&self) -> String {
        format!("{}:gateways", self.namespace)
    }

    /// Hash: gateway, life (its epoch), epoch, state, until; while a dispatcher finishes it: finisher, wanted.
    pub(super) fn shard(&self, shard: u32) -> String {
        format!("{}:shard:{shard}", self.namespace)
    }

    /// Hash: holder, until.
    pub(super) fn orders(&self) -> String {
        format!("{}:orders", self.namespace)
    }

    /// Hash: `<gateway>.<epoch>` → stamp.
    pub(super) fn user(&self, user: &UserId) -> String {
        let user = utf8_percent_encode(user.as_str(), KEPT);
        format!("{}:conn:{user}", self.namespace)
    }

    /// String: who sends it, or that it is done. Ends by itself.
    pub(super) fn send(&self, send: &SendKey) -> String {
        let SendKey {
            channel,
            id,
            user,
            device,
        } = send;
        let user = utf8_percent_encode(user.as_str(), KEPT);
        format!("{}:send:{channel}:{id}:{user}:{device}", self.namespace)
    }

    /// Sorted set: ids by the time at which they were admitted. Ends by itself.
    pub(super) fn quota(&self, limit: &str, user: &UserId) -> String {
        let user = utf8_percent_encode(user.as_str(), KEPT);
        format!("{}:quota:{limit}:{user}", self.namespace)
    }

    /// String: when it is whole again, µs. Ends by itself.
    pub(super) fn rate(&self, name: &str) -> String {
        format!("{}:rate:{name}", self.namespace)
    }

    /// String: millionths of the currency. Ends by itself.
    pub(super) fn spent(&self, channel: Channel, day: u32) -> String {
        format!("{}:spent:{channel}:{day}", self.namespace)
    }

    /// Hash that is only written: does Redis take it?
    pub(super) fn probed(&self) -> String {
        format!("{}:probed", self.namespace)
    }

    /// The reverse index, a hash: user → stamp.
    pub(super) fn entered(&self, owner: &GatewayEpoch, bucket: u32) -> String {
        format!("{}:gwusers:{owner}:{bucket}", self.namespace)
    }
}

/// FNV-1a over the bytes of the id. Never to be changed: another process must find the same bucket.
pub(super) fn bucket(user: &UserId) -> u32 {
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    user.as_str().bytes().fold(0x811c_9dc5, mix) % limits::REGISTRY_BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_id_reaches_into_another_key() {
        let keys = Keys::new(&"n".parse().unwrap());
        let key = |user: &str| keys.user(&user.parse().unwrap());
        assert_eq!(key("a.b-c_d@e"), "n:conn:a.b-c_d@e");
        assert_eq!(key("a:b {c}%2F\u{fc}"), "n:conn:a%3Ab%20%7Bc%7D%252F%C3%BC");
    }

    #[test]
    fn a_bucket_stays_where_it_is() {
        assert_eq!(bucket(&"a".parse().unwrap()), 0xe40c_292c % 4_096);
        assert_eq!(bucket(&"foobar".parse().unwrap()), 0xbf9c_f968 % 4_096);
    }
}
