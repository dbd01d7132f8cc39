//! The I/O of Exchange: connections to Client Access Servers (CAS), callbacks, certificates and administration.
//!
//! Owns sockets, TLS and tokens. Does not own SOAP ([`tandem_exchange::ews`]), nor what is requested, when and how often
//! ([`crate::calendar`]). What always holds: every wait, buffer and table is bounded; no secret is ever logged.

mod cas;
pub mod certificate_import;
pub mod certificate_probe;
pub mod certificate_routes;
pub mod client;
pub mod client_options;
#[cfg(test)]
mod client_tests;
mod connection;
pub mod counters;
pub mod credential_source;
pub mod driver;
mod login;
mod performing;
mod post;
pub mod probe;
pub mod push;
mod push_callback;
mod push_connections;
pub mod push_listener;
#[cfg(test)]
mod push_listener_tests;
mod reports;
pub mod routes;
#[cfg(test)]
mod scripted_cas;
mod sending;
pub mod signing;
pub mod streaming;
mod token_source;
pub mod trust;
mod verifier;
