//! Tandem.

pub mod csta;
pub mod cti;
pub mod directory;
pub mod io;
