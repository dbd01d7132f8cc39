//! Tests of the balancer from outside: inputs and outputs.

mod bench;
mod death;
mod fence;
mod flapping;
mod limits;
mod moved;
mod routes;
