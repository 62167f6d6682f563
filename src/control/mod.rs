//! The gateway's tokio side: everything that talks to Redis, Kafka, gRPC and the admin port. It never
//! touches a client socket.

pub mod upstream;
