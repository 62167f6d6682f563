//! What every store promises ([`behaviour`]), checked on each there is; and what only one of them has.

mod behaviour;
mod build;
mod cassandra;
mod guarded;
mod migrate;
mod node_away;
mod path;
mod sqlite;
