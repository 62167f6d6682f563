//! What tonic makes of `herald.proto`.

#![allow(missing_docs, clippy::all)]
tonic::include_proto!("herald.v1");
