//! `tandem`: one command line for the cluster, its certificates and its configuration.
//!
//! Owns the words of the command line ([`arguments`]), who certifies whom ([`pki`]), and the configuration that a new cluster
//! begins with ([`configuration`]); all three are pure. [`io`] reads and writes the files. Does not own what the programs
//! accept as configuration: their own readers are called. What always holds: no key is ever overwritten, printed, or
//! readable by others.

pub mod arguments;
pub mod configuration;
pub mod io;
pub mod pki;
