//! Translates the replicated state for the calendars.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_cluster::{
    Applied, Assignment, CalendarPresence, CasEndpoint, CasId, ClusterState, Command, NodeId,
};
use tandem_raft::Cluster;
use tracing::{debug, info, warn};

use crate::calendar::{CalendarUser, Input};
use crate::directory::Directory;
use crate::io::clock;
use tandem_exchange::ews::Mailbox;

/// The latest committed state of each user's calendar.
pub(super) fn recorded(state: &ClusterState) -> BTreeMap<String, CalendarPresence> {
    let records = state.presence_records().iter();
    records
        .filter_map(|(user, record)| Some((user.to_string(), record.calendar?)))
        .collect()
}

/// Users with a mailbox whose calendar the directory or an administrator has enabled; the administrator's switch takes
/// precedence.
pub(super) fn calendar_users(state: &ClusterState, directory: &Directory) -> Vec<CalendarUser> {
    let users = directory.users().iter();
    users
        .filter_map(|user| {
            let enabled = state.calendar_enabled(&user.id).unwrap_or(user.calendar);
            let mailbox = user.mail.clone().filter(|_| enabled)?;
            Some(CalendarUser {
                id: user.id.clone(),
                mailbox: Mailbox(mailbox),
            })
        })
        .collect()
}

/// Of all users who have one, and of all in the directory: users without one may have had one.
pub(super) fn all_assignments(
    state: &ClusterState,
    directory: &Directory,
) -> Vec<(String, Option<Assignment>)> {
    let assigned = state.assignments().iter();
    let assigned = assigned.map(|(user, assignment)| (user.to_string(), Some(Assignment::clone(assignment))));
    let known = directory.users().iter();
    let without = known.filter(|user| state.assignment(&user.id).is_none());
    assigned
        .chain(without.map(|user| (user.id.clone(), None)))
        .collect()
}

/// Of these users; and which of them belong to users of this node.
pub(super) fn assignments_of(
    state: &ClusterState,
    users: Vec<String>,
    id: NodeId,
) -> (Vec<(String, Option<Assignment>)>, Vec<Assignment>) {
    let mut own = Vec::new();
    let assignments = users
        .into_iter()
        .map(|user| {
            let assignment = state.assignment(&user).cloned();
            if state.calendar_owner(&user) == Some(id) {
                own.extend(assignment.clone());
            }
            (user, assignment)
        })
        .collect();
    (assignments, own)
}

/// The outcome is reported in any case.
pub(super) async fn propose(cluster: Cluster, proposal: u64, command: Command) -> Input {
    let applied = match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(applied) => Some(applied),
        Err(error) => {
            debug!(%error, "a calendar proposal was not committed in time");
            // A proposal that failed immediately is not retried immediately.
            tokio::time::sleep(PROPOSE_PAUSE).await;
            None
        }
    };
    Input::Committed { proposal, applied }
}

/// Proposes the gateways of the configuration file to a cluster that has none.
pub(super) async fn propose_gateways(cluster: Cluster, gateways: Vec<(CasId, CasEndpoint)>) {
    while cluster.state().cas_gateways().is_empty() {
        let command = Command::CasGatewaysConfigured {
            gateways: gateways.clone(),
            at_ms: clock::unix_ms(),
        };
        match cluster.propose(command, PROPOSE_TIMEOUT).await {
            Ok(Applied::Done) => {
                return info!(
                    gateways = gateways.len(),
                    "the cluster took the gateways of the configuration file"
                );
            }
            Ok(other) => {
                return warn!(
                    ?other,
                    "the cluster refused the gateways of the configuration file"
                );
            }
            Err(error) => {
                debug!(%error, "the gateways of the configuration file could not be proposed yet; retrying")
            }
        }
        tokio::time::sleep(PROPOSE_PAUSE).await;
    }
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
const PROPOSE_PAUSE: Duration = Duration::from_millis(200);
