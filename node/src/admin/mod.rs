//! What the admin listener shows of this node and accepts from an administrator: JSON, without HTTP.
//!
//! Owns the views of the replicated state and of this node's parts, the bodies of requests, and the commands and refusals
//! that follow from them. Does not own routes, the cluster or the clock (`crate::io`). What always holds: a view is made of
//! one state; a body with a key that is not known is refused.

pub mod assignments;
pub mod cluster;
pub mod exchange;
pub mod presence;
pub mod refusal;
pub mod sessions;
pub mod settings;

pub use refusal::{Denied, Fault};
