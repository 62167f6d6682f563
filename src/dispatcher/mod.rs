//! Takes notifications in, decides the channels, keeps storage.

pub mod store;
