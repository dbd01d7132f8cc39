//! What is to be said of a gateway's certificate (CAL-6).
//!
//! Owns the verdict ([`verify`]): the chain to what an administrator trusts, the names by the guides' rules, and which
//! algorithms are good enough; and its explanation ([`diagnose`]): every certificate of the chain with what is wrong
//! with it, and what to do. Does not own files, sockets or the clock: time is given; revocation lists are not asked
//! for: what is trusted no longer is removed from the store. What always holds: the diagnosis
//! says Verified exactly when a handshake would succeed; everything that is read is bounded, and nothing in a
//! certificate makes it panic.

mod algorithms;
mod bundle;
mod chain;
mod diagnosis;
mod explanation;
mod handshake;
mod name;
mod parsed;
mod pkcs7;
mod signature;
mod verification;

pub use algorithms::AlgorithmPolicy;
pub use bundle::{BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, BundleError, read_bundle};
pub use chain::{ElementStatus, Source};
pub use diagnosis::{CertificateView, ChainElement, Diagnosis, Status, diagnose, lacks_issuer};
pub use handshake::{NetworkTrouble, explain_handshake};
pub use name::{HolderNames, NameMatch, NameMismatch};
pub use parsed::{Certificate, DER_BYTES_MAX, Fingerprint, KeyFacts, Unreadable};
pub use signature::is_issued_by;
pub use verification::{Presented, Refusal, SENT_MAX, Trusted, verify};
