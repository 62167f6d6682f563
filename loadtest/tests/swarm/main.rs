//! The tool as it is run, against a small server of its own.

mod carriers;
mod clients;
mod scenarios;
mod server;
mod tls;
