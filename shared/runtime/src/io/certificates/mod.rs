//! Certificates on the disk, changed while the process runs.
//!
//! Owns the directory of what an administrator trusts ([`TrustStore`]), the files of a certificate of ours with the way
//! from a request to its answer ([`IdentityFiles`]), and what administrators send and see of both. Does not own handshakes, nor what they are made of: each binary
//! builds that of what is read here. What always holds: a file is replaced whole, a key is readable to this user alone, and
//! an interrupted change leaves the old state or the new one.

mod administration;
mod files;
mod identity_files;
mod signing_request;
mod trust_directory;
mod trust_store;

pub use administration::{
    CertificateRouteError, NamedCertificate, ProblemView, RemoveBody, RequestView, SignedView, TrustedView,
    UploadedFile, audit_request, audited, error_response, fingerprint, status_code_of_signing,
    status_code_of_store, with_causes,
};
pub use files::pem_text;
pub use identity_files::{Answer, Completeness, Identity, IdentityFiles, IdentityStamp, Installed};
pub use signing_request::{KeyChoice, SigningError, SigningRequest};
pub use trust_directory::{FileProblem, StoredCertificate};
pub use trust_store::{TrustError, TrustStore};
