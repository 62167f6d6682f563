//! The dispatcher through its real doors, over the embedded bus, the registry in process and SQLite.

mod apns;
mod dead_letters;
mod devices;
mod doors;
mod draining;
mod email;
mod fallback;
mod faults;
mod fcm;
mod finisher;
mod inbox;
mod intake;
mod poison;
mod preferences;
mod refusals;
mod rig;
mod router;
mod scheduled;
mod second_look;
mod sms;
mod spool;
mod switched;
mod sync;
mod templates;
mod tracker;
mod web_push;
