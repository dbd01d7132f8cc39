//! Tandem.

pub mod csta;
pub mod cti;
