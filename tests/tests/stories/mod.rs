//! The stories: what the issue promises, shown with real processes.
//!
//! A story owns one scene, waits for what it wants to see, and asks the judges at its end. It asserts nothing
//! about time; the longest pause is printed. What stories share stands in `tandem_tests::scenario`.

mod alerts;
mod attacks;
mod bad_input;
mod calendar_cas_death;
mod calendar_changes;
mod calendar_cold_start;
mod calendar_node_death;
mod calendar_trouble;
mod calendar_users;
mod calls;
mod compared_states;
mod cti_manager_death;
mod demo;
mod everything_killed;
mod exchange_status;
mod from_nothing;
mod front_end_death;
mod frozen_node;
mod full_disk;
mod lost_while_frozen;
mod lost_writes;
mod metrics;
mod node_death;
mod openssl_clients;
mod presence_watchers;
mod quiet_log;
mod rebalance;
mod rolled_back;
mod rolling_upgrade;
mod round_robin;
mod service_manager;
mod sipp;
mod stopped_witness;
mod strange_directories;
mod tls;
mod wiped_member;
