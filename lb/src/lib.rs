//! Tandem's front end: distributes SIP over TCP and TLS to the nodes, message by message.
//!
//! [`balancer`] decides which node gets a message, [`access`] which addresses may connect, and [`membership`] reads the
//! replicated state; all three are pure. [`io`] moves bytes and decides nothing. [`config`] reads `lb.toml`, [`metrics`] holds
//! the Prometheus metrics, and [`app`] builds the parts and connects them.

pub mod access;
pub mod app;
pub mod balancer;
pub mod config;
pub mod io;
pub mod membership;
pub mod metrics;
