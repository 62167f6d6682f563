//! The registry's behaviour, on Redis and in process alike.

#[path = "support/redis.rs"]
mod redis_server;

use redis_server::RedisServer;

#[test]
fn a_test_gets_a_redis_of_its_own() {
    let server = RedisServer::start();
    assert_eq!(server.raw(&["PING"]), "+PONG\r\n");
}
