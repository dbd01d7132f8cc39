//! Calendars against a model of Exchange, in simulated time.

mod exchange;
mod life;
mod world;
