//! Sockets, files, signals and the clock: the only asynchronous code of this crate.
#![expect(
    clippy::disallowed_methods,
    reason = "this is where the clock is read; everything outside io/ gets time as an input"
)]

pub mod admin;
pub mod build;
pub mod certificates;
pub mod command_line;
pub mod environment;
pub mod log_limit;
pub mod pair_security;
pub mod process;
pub mod revocation;
mod shown_certificate;
pub mod shutdown;
pub mod sip_certificates;
mod sip_client_verifier;
pub mod sip_stream;
pub mod sip_tls;
pub mod telemetry;
#[cfg(test)]
mod test_authority;
pub mod tls;
pub mod transport;
pub mod watchdog;
pub mod watched_files;
