//! Tandem's front end: a demultiplexer for SIP, message by message.
//!
//! [`balancer`] decides and is pure; everything that moves bytes stands in `io`.

pub mod balancer;
