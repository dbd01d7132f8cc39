//! Exchange Web Services as a client sees them: what is asked, what is answered, and what an error means.
//!
//! Owns the vocabulary ([`ews`]): operations, answers, notifications and the class of every failure. Does not own
//! users, subscriptions or connections. What always holds: an answer is read by local names and position, never by
//! prefix or wrapper, and whatever comes from a server ends as an answer or as a [`ews::Failure`].

pub mod affinity;
pub mod authorization;
pub mod callback;
pub mod certificate;
pub mod credential;
pub mod ews;
pub mod ntlm;
pub mod oauth;
pub mod version_ladder;
