//! The generated gRPC types and services of `herald.proto`, and how they meet our own types.

pub mod convert;
mod generated;
pub mod secret;

pub use generated::*;

/// What `herald.proto` says, for who asks by reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/herald.bin"));
