//! Translates the replicated state for the calendars.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_shared::cluster::{
    Applied, Assignment, CalendarPresence, CasEndpoint, CasId, ClusterState, Command, NodeId, SettingName,
};
use tandem_shared::io::raft::Cluster;
use tracing::{debug, info, warn};

use crate::calendar::{CalendarSettings, CalendarUser, Delivery, Input};
use crate::directory::Directory;
use crate::exchange::ews::Mailbox;
use crate::io::clock;

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

/// The cluster's settings take precedence over the file. Without a listener changes are streamed, whatever the setting.
pub(super) fn settings(
    state: &ClusterState,
    users: usize,
    file: &CalendarSettings,
    has_push: bool,
) -> CalendarSettings {
    let number = |name| state.setting_number(name);
    let count = |name, file| {
        number(name)
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(file)
    };
    let secs = |name, file| number(name).map_or(file, Duration::from_secs);
    let concurrency_max = count(SettingName::ExchangeThreadsMax, file.concurrency_max);
    CalendarSettings {
        delivery: delivery(state, file.delivery, has_push),
        status_frequency: number(SettingName::CalendarStatusFrequencyMinutes)
            .and_then(|minutes| u16::try_from(minutes).ok())
            .unwrap_or(file.status_frequency),
        spread_secs: spread_secs(state, users, file.spread_secs),
        request_timeout: number(SettingName::ExchangeTimeoutMs)
            .map_or(file.request_timeout, Duration::from_millis),
        queue_max: count(SettingName::ExchangeQueue, file.queue_max),
        concurrency: count(SettingName::ExchangeThreads, file.concurrency).min(concurrency_max),
        concurrency_max,
        moves_per_second: number(SettingName::CalendarMovesPerSecond)
            .and_then(|moves| u32::try_from(moves).ok())
            .unwrap_or(file.moves_per_second),
        window: file.window,
        refresh_interval: secs(SettingName::CalendarRefreshSecs, file.refresh_interval),
        sweep_interval: secs(SettingName::CalendarSweepSecs, file.sweep_interval),
        pull_interval: secs(SettingName::CalendarPullSecs, file.pull_interval),
        stream_group_max: count(SettingName::CalendarStreamGroup, file.stream_group_max),
    }
}

fn delivery(state: &ClusterState, file: Delivery, has_push: bool) -> Delivery {
    let set = match state.setting_word(SettingName::CalendarDelivery) {
        Some("push_first") => Delivery::PushFirst,
        Some("streaming_first") => Delivery::StreamingFirst,
        Some("push_only") => Delivery::PushOnly,
        Some("streaming_only") => Delivery::StreamingOnly,
        Some("pull") => Delivery::Pull,
        Some(_) | None => file,
    };
    match set {
        Delivery::PushFirst | Delivery::StreamingFirst | Delivery::PushOnly if !has_push => {
            Delivery::StreamingOnly
        }
        Delivery::PushFirst
        | Delivery::StreamingFirst
        | Delivery::PushOnly
        | Delivery::StreamingOnly
        | Delivery::Pull => set,
    }
}

/// CAL-4: seconds, or a hundredth of the users of a node.
fn spread_secs(state: &ClusterState, users: usize, file: u32) -> u32 {
    if state.setting_word(SettingName::CalendarSpreadBy) == Some("users") {
        let per_node = users / state.live_nodes().count().max(1);
        return u32::try_from(per_node / 100)
            .unwrap_or(SPREAD_SECS_MAX)
            .min(SPREAD_SECS_MAX);
    }
    let set = state.setting_number(SettingName::CalendarSpreadSecs);
    set.and_then(|secs| u32::try_from(secs).ok()).unwrap_or(file)
}

/// `None`: as in the file.
pub(super) fn push_port(state: &ClusterState) -> Option<u16> {
    let port = state.setting_number(SettingName::ExchangePushPort)?;
    u16::try_from(port).ok().filter(|port| *port != 0)
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
const SPREAD_SECS_MAX: u32 = 59;

#[cfg(test)]
mod tests {
    use tandem_shared::cluster::StateLimits;

    use super::*;

    fn state(settings: &[(&str, &str)]) -> ClusterState {
        let mut state = ClusterState::new(StateLimits::default());
        for (name, value) in settings {
            let (name, value) = ((*name).to_owned(), Some((*value).to_owned()));
            let (applied, _) = state.apply(Command::SettingChanged { name, value });
            assert_eq!(applied, Applied::Done);
        }
        state
    }

    #[test]
    fn what_was_set_counts_more_than_the_file() {
        let file = CalendarSettings {
            spread_secs: 7,
            queue_max: 5,
            ..CalendarSettings::default()
        };
        assert_eq!(settings(&state(&[]), 0, &file, true), file);
        let set = state(&[
            ("calendar_delivery", "streaming_first"),
            ("calendar_spread_secs", "0"),
            ("exchange_timeout_ms", "1500"),
            ("exchange_threads_max", "4"),
        ]);
        let wanted = CalendarSettings {
            delivery: Delivery::StreamingFirst,
            spread_secs: 0,
            request_timeout: Duration::from_millis(1500),
            concurrency: 4,
            concurrency_max: 4,
            ..file.clone()
        };
        assert_eq!(settings(&set, 0, &file, true), wanted);
    }

    #[test]
    fn without_a_listener_push_is_never_tried() {
        let file = CalendarSettings::default();
        for word in ["push_first", "push_only", "streaming_first", "streaming_only"] {
            let set = settings(&state(&[("calendar_delivery", word)]), 0, &file, false);
            assert_eq!(set.delivery, Delivery::StreamingOnly, "{word}");
        }
        let pull = settings(&state(&[("calendar_delivery", "pull")]), 0, &file, false);
        assert_eq!(pull.delivery, Delivery::Pull);
    }

    #[test]
    fn the_spread_may_follow_the_number_of_users() {
        let by_users = state(&[("calendar_spread_by", "users")]);
        let secs = |users| settings(&by_users, users, &CalendarSettings::default(), true).spread_secs;
        assert_eq!([secs(99), secs(1000), secs(100_000)], [0, 10, 59]);
    }

    #[test]
    fn the_port_of_the_file_holds_until_another_is_set() {
        assert_eq!(push_port(&state(&[])), None);
        assert_eq!(push_port(&state(&[("exchange_push_port", "0")])), None);
        assert_eq!(push_port(&state(&[("exchange_push_port", "9443")])), Some(9443));
    }
}
