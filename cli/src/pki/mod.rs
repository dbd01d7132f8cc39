//! Who certifies whom: two authorities, and what each of them signs.
//!
//! Owns the contents of certificates ([`authority`], [`holder`]), the names in them ([`name`]), which requests are signed
//! ([`request`]), and what is said about certificates ([`report`], [`verdict`]). Does not own keys, files or the clock: the
//! caller brings a key, the time and a serial number. What always holds: the peers' authority signs members of its cluster
//! and nobody else; what a request asks for beyond its names is not in the certificate.

pub mod authority;
pub mod holder;
pub mod name;
pub mod report;
pub mod request;
pub mod verdict;
