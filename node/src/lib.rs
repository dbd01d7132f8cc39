//! Tandem's gateway node.
//!
//! Pure: [`gateway`] decides, with [`sip`] (dialogs, session timer), [`csta`] (services and events), [`cti`] (the links
//! to the CTI managers) and [`directory`] (who may control which phone). [`io`] moves the bytes, [`app`] puts the parts
//! together, [`config`] says how, [`metrics`] counts.

pub mod app;
pub mod config;
pub mod csta;
pub mod cti;
pub mod directory;
pub mod gateway;
pub mod io;
pub mod metrics;
pub mod sip;
