//! Calendars against a model of Exchange, in simulated time.
