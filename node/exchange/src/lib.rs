//! Exchange Web Services from the client's side: requests, answers, and the meaning of errors.
//!
//! Owns the vocabulary ([`ews`]): operations, answers, notifications and the class of every failure. Does not own
//! users, subscriptions or connections. What always holds: an answer is read by local names and position, never by
//! prefix or wrapper, and whatever a server sends becomes an answer or a [`ews::Failure`].

pub mod affinity;
pub mod authorization;
pub mod callback;
pub mod certificate;
pub mod credential;
pub mod ews;
pub mod ntlm;
pub mod oauth;
pub mod version_ladder;
