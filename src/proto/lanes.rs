//! (to come)
pub struct Lanes;
