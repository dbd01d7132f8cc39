//! The balancer from outside: what comes in, what goes out.

mod bench;
mod death;
mod fence;
mod flapping;
mod limits;
mod moved;
mod routes;
