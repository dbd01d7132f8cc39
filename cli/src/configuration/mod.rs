//! The configuration that a new cluster begins with.
//!
//! Owns who listens where ([`network`]), what is possible at all ([`plan`]), the text of the files, and how one tells whose a
//! file is ([`kind`]). Does not own the files themselves, nor what is valid: the readers of both programs decide. What always
//! holds: the files of a [`plan::Plan`] are valid for these readers.

mod front_end;
pub mod kind;
pub mod network;
mod node;
pub mod plan;
mod text;

pub use front_end::front_end_file;
pub use node::{directory_file, node_file};
