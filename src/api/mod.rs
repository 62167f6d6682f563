//! The generated gRPC types and services of `herald.proto`, and how they meet our own types.

pub mod convert;
mod generated;
pub mod secret;

pub use generated::*;
