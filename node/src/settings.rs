//! What holds for each part of the node: the cluster's settings, and the node's own file where nothing was set.
//!
//! Owns no setting. Does not own the state, the file or the parts. What always holds: what is set in the cluster counts more
//! than the file, and a setting that is taken back gives the file's value its place again.

use std::time::Duration;

use tandem_cluster::{ClusterState, SettingName};

use crate::calendar::{CalendarSettings, Delivery};
use crate::cti::CtiTimings;
use crate::presence::{BusyShowsAs, CompositionSettings, WorkingElsewhereShowsAs};

/// What may change about sessions and CTI connections while the node runs (RCC-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewaySettings {
    pub session_timer_secs: u32,
    pub cti: CtiTimings,
}

/// How sessions and CTI connections behave.
#[must_use]
pub fn gateway(state: &ClusterState, file: GatewaySettings) -> GatewaySettings {
    let number = |name| state.setting_number(name);
    let millis = |name, file| number(name).map_or(file, Duration::from_millis);
    GatewaySettings {
        session_timer_secs: number(SettingName::SessionTimerSecs)
            .and_then(|secs| u32::try_from(secs).ok())
            .unwrap_or(file.session_timer_secs),
        cti: CtiTimings {
            heartbeat_interval: millis(SettingName::CtiHeartbeatIntervalMs, file.cti.heartbeat_interval),
            heartbeat_timeout: millis(SettingName::CtiHeartbeatTimeoutMs, file.cti.heartbeat_timeout),
            request_timeout: millis(SettingName::CtiRequestTimeoutMs, file.cti.request_timeout),
            reconnect_interval: millis(SettingName::CtiReconnectIntervalMs, file.cti.reconnect_interval),
        },
    }
}

/// How presence is composed, the same on every node: no file has a say.
#[must_use]
pub fn composition(state: &ClusterState) -> CompositionSettings {
    let word = |name| state.setting_word_or_default(name);
    CompositionSettings {
        busy_shows_as: match word(SettingName::CalendarBusyShowsAs) {
            "busy" => BusyShowsAs::Busy,
            _ => BusyShowsAs::Meeting,
        },
        working_elsewhere_shows_as: match word(SettingName::CalendarWorkingElsewhereShowsAs) {
            "away" => WorkingElsewhereShowsAs::Away,
            "busy" => WorkingElsewhereShowsAs::Busy,
            _ => WorkingElsewhereShowsAs::Available,
        },
    }
}

/// How calendars are followed. Without a listener changes are streamed, whatever is set.
#[must_use]
pub fn calendars(
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

/// Where Exchange calls back; `None`: as in the file.
#[must_use]
pub fn push_port(state: &ClusterState) -> Option<u16> {
    let port = state.setting_number(SettingName::ExchangePushPort)?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

const SPREAD_SECS_MAX: u32 = 59;

#[cfg(test)]
mod tests {
    use tandem_cluster::{Applied, Command, StateLimits};

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
    fn the_gateway_goes_by_its_file_until_something_is_set() {
        let file = GatewaySettings {
            session_timer_secs: 600,
            cti: CtiTimings {
                heartbeat_interval: Duration::from_secs(5),
                heartbeat_timeout: Duration::from_secs(2),
                request_timeout: Duration::from_secs(4),
                reconnect_interval: Duration::from_secs(1),
            },
        };
        assert_eq!(gateway(&state(&[]), file), file);
        let set = state(&[("session_timer_secs", "90"), ("cti_request_timeout_ms", "2500")]);
        let wanted = GatewaySettings {
            session_timer_secs: 90,
            cti: CtiTimings {
                request_timeout: Duration::from_millis(2500),
                ..file.cti
            },
        };
        assert_eq!(gateway(&set, file), wanted);
    }

    #[test]
    fn presence_is_composed_as_an_administrator_chose() {
        assert_eq!(composition(&state(&[])), CompositionSettings::default());
        let set = state(&[
            ("calendar_busy_shows_as", "busy"),
            ("calendar_working_elsewhere_shows_as", "away"),
        ]);
        let wanted = CompositionSettings {
            busy_shows_as: BusyShowsAs::Busy,
            working_elsewhere_shows_as: WorkingElsewhereShowsAs::Away,
        };
        assert_eq!(composition(&set), wanted);
    }

    #[test]
    fn calendars_are_followed_as_the_file_says_until_something_is_set() {
        let file = CalendarSettings {
            spread_secs: 7,
            queue_max: 5,
            ..CalendarSettings::default()
        };
        assert_eq!(calendars(&state(&[]), 0, &file, true), file);
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
        assert_eq!(calendars(&set, 0, &file, true), wanted);
    }

    #[test]
    fn without_a_listener_push_is_never_tried() {
        let file = CalendarSettings::default();
        for word in ["push_first", "push_only", "streaming_first", "streaming_only"] {
            let set = calendars(&state(&[("calendar_delivery", word)]), 0, &file, false);
            assert_eq!(set.delivery, Delivery::StreamingOnly, "{word}");
        }
        let pull = calendars(&state(&[("calendar_delivery", "pull")]), 0, &file, false);
        assert_eq!(pull.delivery, Delivery::Pull);
    }

    #[test]
    fn the_spread_may_follow_the_number_of_users() {
        let by_users = state(&[("calendar_spread_by", "users")]);
        let secs = |users| calendars(&by_users, users, &CalendarSettings::default(), true).spread_secs;
        assert_eq!([secs(99), secs(1000), secs(100_000)], [0, 10, 59]);
    }

    #[test]
    fn the_port_of_the_file_holds_until_another_is_set() {
        assert_eq!(push_port(&state(&[])), None);
        assert_eq!(push_port(&state(&[("exchange_push_port", "0")])), None);
        assert_eq!(push_port(&state(&[("exchange_push_port", "9443")])), Some(9443));
    }
}
