//! Control on real parts (embedded bus and registry, the real queues to the cores), with cores and a
//! dispatcher that the tests play.

mod rig;

mod broadcasts;
mod commits;
mod connecting;
mod full_core;
mod leases;
mod leaving;
mod path;
mod posts;
mod remote;
