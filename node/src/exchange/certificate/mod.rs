//! What is to be said of a gateway's certificate (CAL-6).
//!
//! Owns the verdict ([`verify`]): the chain to what an administrator trusts, the names by the guides' rules, and which
//! algorithms are good enough. Does not own files, sockets or the clock: time is given. What always holds: everything
//! that is read is bounded, nothing in a certificate makes it panic.

mod algorithms;
mod bundle;
mod name;
mod parsed;
mod pkcs7;
mod verification;

pub use algorithms::AlgorithmPolicy;
pub use bundle::{BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, BundleError, read_bundle};
pub use name::{HolderNames, NameMatch, NameMismatch};
pub use parsed::{Certificate, DER_BYTES_MAX, Fingerprint, KeyFacts, Unreadable};
pub use verification::{Presented, Refusal, SENT_MAX, Trusted, verify};
