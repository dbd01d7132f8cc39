//! `tandem`: one command line for the cluster and its certificates.
//!
//! Owns the words of the command line ([`arguments`]) and who certifies whom ([`pki`]); both are pure. [`io`] reads and
//! writes the files. What always holds: no key is ever overwritten, printed, or readable by others.

pub mod arguments;
pub mod io;
pub mod pki;
