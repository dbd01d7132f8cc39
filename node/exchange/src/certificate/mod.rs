//! Verifies and explains the certificate of a CAS (CAL-6).
//!
//! Owns the verdict ([`verify`]): the chain to what an administrator trusts, the names by the rules of CAL-6, and which
//! algorithms are good enough; and its explanation ([`diagnose`]): every certificate of the chain with what is wrong
//! with it, and what to do. Does not own reading certificates, which is [`tandem_certificate`], nor files, sockets
//! or the clock: time is given. Revocation lists are not used: what is no longer trusted is removed from the store.
//! What always holds: the diagnosis says Verified exactly when a handshake would succeed; everything that is read is
//! bounded, and nothing in a certificate makes it panic.

mod chain;
mod diagnosis;
mod explanation;
mod handshake;
mod offer;
mod report;
mod verification;

pub use chain::{ElementStatus, Source};
pub use diagnosis::{ChainElement, Diagnosis, diagnose, lacks_issuer};
pub use handshake::{NetworkTrouble, explain_handshake};
pub use offer::{FetchFrom, Offered, offered};
pub use report::{Met, ProbeReport, Reachability, Session, Trouble};
pub use verification::{Presented, Refusal, SENT_MAX, verify};
