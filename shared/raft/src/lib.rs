//! The Raft group of a cluster: see [`io`], whose names are this crate's.

pub mod io;

pub use io::*;
