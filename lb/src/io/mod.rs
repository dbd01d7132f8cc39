//! Everything that moves bytes or reads the clock.
//!
//! Owns sockets, tasks, bounded queues and the one loop around each machine of `balancer`. Does not own a decision:
//! what a message means, which node is alive and who gets what is said there. What always holds: one task owns one
//! machine, `perform` never waits, and a queue that is full is reported back as an input.

pub mod accepted;
pub mod admission;
pub mod certificate_routes;
pub mod client_balancer;
pub mod client_connection;
pub mod client_input;
pub mod client_pairs;
pub mod client_reading;
pub mod clock;
pub mod command_line;
pub mod connection_mode;
pub mod dialled_client;
pub mod listener;
pub mod listener_context;
pub mod node_board;
pub mod node_check;
pub mod outbound_listener;
pub mod paired_connection;
pub mod prober;
pub mod resolved_hosts;
pub mod standing_node;
pub mod witness;
