//! The only asynchronous code of this crate: sockets and the clock.

pub mod cti_link;
