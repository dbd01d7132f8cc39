//! What certificates say, whoever shows them.
//!
//! Owns reading them ([`Certificate`], [`read_bundle`]), who has signed whom ([`is_issued_by`], [`check_signature`]) and
//! by what algorithms ([`AlgorithmPolicy`]), whom they name ([`HolderNames`]), what an administrator trusts ([`Trusted`])
//! and is shown ([`CertificateView`]), and how it stands with a chain of ours ([`judge_own`]). Does not own files, sockets
//! or the clock, nor the verdict on a peer: each binary has its own rules for its own peers. What always holds: everything
//! that is read is bounded, and nothing in a certificate makes it panic.

mod algorithms;
mod bundle;
mod name;
mod own;
mod parsed;
mod pkcs7;
mod signature;
mod status;
mod trusted;
mod view;

pub use algorithms::AlgorithmPolicy;
pub use bundle::{BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, BundleError, read_bundle};
pub use name::{HolderNames, NameMatch, NameMismatch};
pub use own::{OwnVerdict, judge_own};
pub use parsed::{Certificate, DER_BYTES_MAX, Fingerprint, KeyFacts, Unreadable, Usages};
pub use signature::{SignatureCheck, check_own_signature, check_signature, is_issued_by};
pub use status::Status;
pub use trusted::Trusted;
pub use view::{CertificateView, date};
