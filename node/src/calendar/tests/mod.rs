//! Calendars against a model of Exchange, in simulated time.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a scenario looks for what it is about"
)]

mod edges;
mod exchange;
mod following;
mod histories;
mod life;
mod rows;
mod world;
