//! Tandem's gateway node.
//!
//! Pure: [`gateway`] decides, with [`sip`] (dialogs, session timer), [`csta`] (services and events), [`cti`] (the links
//! to the CTI managers) and [`directory`] (who may control which phone); [`calendar`] keeps the subscriptions of
//! [`tandem_exchange`], and [`presence`] is made of both; [`following`] reads off the replicated state what concerns this node,
//! [`settings`] what holds for each part of it; [`rebalancing`] evens out shares, and [`admin`] shows all of it to an
//! administrator. [`io`] moves the bytes, [`app`] puts the parts
//! together, [`config`] says how, [`metrics`] counts.

pub mod admin;
pub mod app;
pub mod calendar;
pub mod config;
pub mod csta;
pub mod cti;
pub mod directory;
pub mod following;
pub mod gateway;
pub mod io;
pub mod metrics;
pub mod presence;
pub mod rebalancing;
#[cfg(test)]
mod session_sample;
pub mod settings;
pub mod sip;
