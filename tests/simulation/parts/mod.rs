//! What stands around the product's own code: virtual time, and models of the broker and the store. The
//! registry is the product's embedded one, reached over a link that can be cut.

mod bus;
mod clock;
mod links;
mod rows;

pub use bus::Bus;
pub use clock::{Clock, Part};
pub use links::{Deed, Link, Redis};
pub use rows::Rows;
