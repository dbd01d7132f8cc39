//! No table, queue or log is longer than it may be, as the members' own metrics tell.

use tandem_cluster::snapshot_schedule::entries_between_max;

use super::{count, nothing_found, number};
use crate::cluster::{Addresses, Member, Metrics};

/// The people, subscriptions and servers that there are.
#[derive(Debug, Clone, Copy)]
pub(in crate::world) struct Sizes {
    pub(in crate::world) nodes: u64,
    pub(in crate::world) clients: usize,
    pub(in crate::world) calendars: usize,
    /// Subscriptions of watchers, lost ones included.
    pub(in crate::world) watchers: usize,
    pub(in crate::world) cas: usize,
    /// Entries after which a snapshot is made, and entries kept behind it.
    pub(in crate::world) log: (u64, u64),
}

/// Of each bound at each member. Everything that was asked has been answered.
pub(in crate::world) async fn judge(addresses: Addresses, sizes: Sizes) -> anyhow::Result<u64> {
    let (mut judged, mut found) = (0, Vec::new());
    for member in (1..=sizes.nodes).map(Member::Node).chain([Member::Lb]) {
        let metrics = addresses.metrics(member).await?;
        for (name, value, most) in values(member, &metrics, sizes) {
            judged += 1;
            if value > most {
                found.push(format!("{member}: {name} is {value}, and {most} at most"));
            }
        }
    }
    nothing_found(&found)?;
    Ok(count(judged))
}

/// What is measured, and the most that it may be.
fn values(member: Member, metrics: &Metrics, sizes: Sizes) -> Vec<(&'static str, f64, f64)> {
    let sum = |name: &'static str, most: f64| (name, metrics.sum(name, &[]), most);
    let log = metrics.sum("tandem_raft_applied_index", &[]) - metrics.sum("tandem_raft_log_first_index", &[]);
    let (after, kept) = sizes.log;
    // As many more may come while the snapshot is made.
    let entries_max = number(entries_between_max(after) + kept + after);
    let mut values = vec![
        ("entries of the log", log, entries_max),
        sum("tandem_raft_log_queued_bytes", MIB),
    ];
    let (clients, calendars, cas) = (size(sizes.clients), size(sizes.calendars), size(sizes.cas));
    match member {
        Member::Node(_) => values.extend([
            // RCC-16, per user.
            sum("tandem_node_sessions", 5.0 * clients),
            sum("tandem_node_watchers_replicated", size(sizes.watchers)),
            sum("tandem_node_cti_requests_outstanding", clients),
            // One request for each user at a time, and one for each server.
            sum("tandem_node_exchange_requests_waiting", calendars + cas),
            sum("tandem_node_exchange_in_flight", calendars + cas),
            // One stream takes a hundred subscriptions, and one more is opened before it ends.
            sum("tandem_node_exchange_streams", 2.0 * cas),
            sum("tandem_presence_changes_waiting", calendars),
        ]),
        Member::Lb => values.extend([
            sum("tandem_lb_pending_requests", 0.0),
            sum("tandem_lb_kept_bytes", MIB),
            // Each client of the office has one connection, or two while an old one is dying; lb has its own besides.
            sum("tandem_lb_pairs", 6.0 * number(sizes.nodes)),
        ]),
        Member::CtiManager(_) => {}
    }
    values
}

fn size(things: usize) -> f64 {
    f64::from(u32::try_from(things).unwrap_or(u32::MAX))
}

const MIB: f64 = 1_048_576.0;
