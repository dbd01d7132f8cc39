//! Tandem's front end: a demultiplexer for SIP, message by message.
//!
//! [`balancer`] decides, [`access`] says who may come in, [`membership`] reads the replicated state, and all are pure; [`io`] moves bytes and has no opinion. [`config`] says what a human wrote,
//! [`metrics`] what Prometheus is told, and [`app`] puts the parts together.

pub mod access;
pub mod app;
pub mod balancer;
pub mod config;
pub mod io;
pub mod membership;
pub mod metrics;
