//! Tandem.

pub mod csta;
