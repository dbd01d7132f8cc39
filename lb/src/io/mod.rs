//! All I/O of the front end.
//!
//! Owns sockets, tasks, bounded queues and the one loop around each state machine of `balancer`. Does not own decisions: what
//! a message means, which node is alive and which node gets a message is decided there. What always holds: one task owns
//! one state machine, `perform` never waits, and a full queue is reported back as an input.

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
pub mod named_files;
pub mod node_board;
pub mod node_check;
pub mod outbound_listener;
pub mod paired_connection;
pub mod prober;
pub mod resolved_hosts;
pub mod standing_node;
pub mod witness;
