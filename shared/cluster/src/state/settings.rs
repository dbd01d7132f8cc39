//! Settings that hold for the whole cluster and change while it runs (RCC-15).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ClusterState;
use crate::command::{Applied, Change, Refusal};

/// A setting that the cluster knows. The unit of a number ends the name.
///
/// postcard is positional: snapshots survive an upgrade only if variants are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SettingName {
    SessionTimerSecs,
    CtiHeartbeatIntervalMs,
    CtiHeartbeatTimeoutMs,
    CtiRequestTimeoutMs,
    CtiReconnectIntervalMs,
    /// How Exchange tells of changes.
    CalendarDelivery,
    /// EWS Status Frequency.
    CalendarStatusFrequencyMinutes,
    /// Calendar Spread.
    CalendarSpreadSecs,
    /// Whether the spread is that many seconds, or a hundredth of the users of a node.
    CalendarSpreadBy,
    CalendarBusyShowsAs,
    CalendarWorkingElsewhereShowsAs,
    /// Users moved off a failed gateway per second, by each node.
    CalendarMovesPerSecond,
    CalendarRefreshSecs,
    CalendarSweepSecs,
    CalendarPullSecs,
    /// Subscriptions on one streaming connection.
    CalendarStreamGroup,
    /// Exchange Timeout.
    ExchangeTimeoutMs,
    /// Exchange Queue: requests that wait for one gateway.
    ExchangeQueue,
    /// Exchange Threads: concurrent requests to one gateway at first.
    ExchangeThreads,
    /// How many they may become while the gateway answers well.
    ExchangeThreadsMax,
    /// Exchange Notification Port; 0: as each node's file has it.
    ExchangePushPort,
}

/// What a setting takes, and what holds while nothing was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// A whole number, least and greatest included.
    Number { least: u64, greatest: u64, default: u64 },
    /// One of these; the first is the default.
    Word { accepted: &'static [&'static str] },
}

impl SettingName {
    pub const ALL: [Self; 21] = [
        Self::SessionTimerSecs,
        Self::CtiHeartbeatIntervalMs,
        Self::CtiHeartbeatTimeoutMs,
        Self::CtiRequestTimeoutMs,
        Self::CtiReconnectIntervalMs,
        Self::CalendarDelivery,
        Self::CalendarStatusFrequencyMinutes,
        Self::CalendarSpreadSecs,
        Self::CalendarSpreadBy,
        Self::CalendarBusyShowsAs,
        Self::CalendarWorkingElsewhereShowsAs,
        Self::CalendarMovesPerSecond,
        Self::CalendarRefreshSecs,
        Self::CalendarSweepSecs,
        Self::CalendarPullSecs,
        Self::CalendarStreamGroup,
        Self::ExchangeTimeoutMs,
        Self::ExchangeQueue,
        Self::ExchangeThreads,
        Self::ExchangeThreadsMax,
        Self::ExchangePushPort,
    ];

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.as_str() == name)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionTimerSecs => "session_timer_secs",
            Self::CtiHeartbeatIntervalMs => "cti_heartbeat_interval_ms",
            Self::CtiHeartbeatTimeoutMs => "cti_heartbeat_timeout_ms",
            Self::CtiRequestTimeoutMs => "cti_request_timeout_ms",
            Self::CtiReconnectIntervalMs => "cti_reconnect_interval_ms",
            Self::CalendarDelivery => "calendar_delivery",
            Self::CalendarStatusFrequencyMinutes => "calendar_status_frequency_minutes",
            Self::CalendarSpreadSecs => "calendar_spread_secs",
            Self::CalendarSpreadBy => "calendar_spread_by",
            Self::CalendarBusyShowsAs => "calendar_busy_shows_as",
            Self::CalendarWorkingElsewhereShowsAs => "calendar_working_elsewhere_shows_as",
            Self::CalendarMovesPerSecond => "calendar_moves_per_second",
            Self::CalendarRefreshSecs => "calendar_refresh_secs",
            Self::CalendarSweepSecs => "calendar_sweep_secs",
            Self::CalendarPullSecs => "calendar_pull_secs",
            Self::CalendarStreamGroup => "calendar_stream_group",
            Self::ExchangeTimeoutMs => "exchange_timeout_ms",
            Self::ExchangeQueue => "exchange_queue",
            Self::ExchangeThreads => "exchange_threads",
            Self::ExchangeThreadsMax => "exchange_threads_max",
            Self::ExchangePushPort => "exchange_push_port",
        }
    }

    #[must_use]
    pub fn kind(self) -> SettingKind {
        match self {
            // RFC 4028 §5: no session interval is below 90 s.
            Self::SessionTimerSecs => number(90, 86_400, 1800),
            Self::CtiHeartbeatIntervalMs => number(50, HOUR_MS, 5000),
            Self::CtiHeartbeatTimeoutMs => number(50, HOUR_MS, 2000),
            Self::CtiRequestTimeoutMs => number(50, HOUR_MS, 4000),
            Self::CtiReconnectIntervalMs => number(50, HOUR_MS, 1000),
            Self::CalendarDelivery => word(&[
                "push_first",
                "streaming_first",
                "push_only",
                "streaming_only",
                "pull",
            ]),
            // The range is that of the schema of Exchange Web Services, too.
            Self::CalendarStatusFrequencyMinutes => number(1, 1440, 60),
            Self::CalendarSpreadSecs => number(0, 59, 50),
            Self::CalendarSpreadBy => word(&["seconds", "users"]),
            Self::CalendarBusyShowsAs => word(&["meeting", "busy"]),
            Self::CalendarWorkingElsewhereShowsAs => word(&["available", "away", "busy"]),
            Self::CalendarMovesPerSecond => number(1, 10_000, 100),
            // Calendars are read 36 hours ahead.
            Self::CalendarRefreshSecs => number(60, 86_400, 43_200),
            Self::CalendarSweepSecs => number(5, 86_400, 900),
            Self::CalendarPullSecs => number(1, 3600, 60),
            Self::CalendarStreamGroup => number(1, 200, 100),
            Self::ExchangeTimeoutMs => number(500, 600_000, 30_000),
            Self::ExchangeQueue => number(1, 1_000_000, 20_000),
            Self::ExchangeThreads => number(1, 256, 8),
            Self::ExchangeThreadsMax => number(1, 256, 20),
            Self::ExchangePushPort => number(0, 65_535, 0),
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self.kind() {
            SettingKind::Number { least, greatest, .. } => value
                .parse()
                .is_ok_and(|number: u64| (least..=greatest).contains(&number)),
            SettingKind::Word { accepted } => accepted.contains(&value),
        }
    }
}

const fn number(least: u64, greatest: u64, default: u64) -> SettingKind {
    SettingKind::Number {
        least,
        greatest,
        default,
    }
}

const fn word(accepted: &'static [&'static str]) -> SettingKind {
    SettingKind::Word { accepted }
}

const HOUR_MS: u64 = 3_600_000;

impl ClusterState {
    /// What an administrator set; `None` while nobody has, or when there is no such setting.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(&SettingName::parse(name)?).map(String::as_str)
    }

    /// As [`Self::setting`], as the number that it is: a node falls back to its own configuration file.
    #[must_use]
    pub fn setting_number(&self, name: SettingName) -> Option<u64> {
        self.settings.get(&name)?.parse().ok()
    }

    /// As [`Self::setting_number`], with the default where nothing was set; 0 for a word.
    #[must_use]
    pub fn setting_or_default(&self, name: SettingName) -> u64 {
        let default = match name.kind() {
            SettingKind::Number { default, .. } => default,
            SettingKind::Word { .. } => 0,
        };
        self.setting_number(name).unwrap_or(default)
    }

    /// As [`Self::setting`], as one of the words that it takes. `None` where nothing was set, and for a number.
    #[must_use]
    pub fn setting_word(&self, name: SettingName) -> Option<&'static str> {
        let value = self.settings.get(&name)?;
        match name.kind() {
            SettingKind::Number { .. } => None,
            SettingKind::Word { accepted } => accepted.iter().copied().find(|word| word == value),
        }
    }

    /// As [`Self::setting_word`], with the default where nothing was set; empty for a number.
    #[must_use]
    pub fn setting_word_or_default(&self, name: SettingName) -> &'static str {
        let default = match name.kind() {
            SettingKind::Number { .. } => "",
            SettingKind::Word { accepted } => accepted.first().copied().unwrap_or_default(),
        };
        self.setting_word(name).unwrap_or(default)
    }

    #[must_use]
    pub fn session_timer_secs(&self) -> u64 {
        self.setting_or_default(SettingName::SessionTimerSecs)
    }

    #[must_use]
    pub fn cti_heartbeat_interval_ms(&self) -> u64 {
        self.setting_or_default(SettingName::CtiHeartbeatIntervalMs)
    }

    #[must_use]
    pub fn cti_heartbeat_timeout_ms(&self) -> u64 {
        self.setting_or_default(SettingName::CtiHeartbeatTimeoutMs)
    }

    #[must_use]
    pub fn cti_request_timeout_ms(&self) -> u64 {
        self.setting_or_default(SettingName::CtiRequestTimeoutMs)
    }

    #[must_use]
    pub fn cti_reconnect_interval_ms(&self) -> u64 {
        self.setting_or_default(SettingName::CtiReconnectIntervalMs)
    }

    pub(super) fn change_setting(
        &mut self,
        name: String,
        value: Option<String>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let Some(setting) = SettingName::parse(&name) else {
            return Applied::Refused(Refusal::UnknownSetting);
        };
        if value.as_deref().is_some_and(|value| !setting.accepts(value)) {
            return Applied::Refused(Refusal::ValueNotAccepted);
        }
        let former = match value.clone() {
            Some(value) => Arc::make_mut(&mut self.settings).insert(setting, value),
            None => Arc::make_mut(&mut self.settings).remove(&setting),
        };
        if former != value {
            changes.push(Change::Setting { name });
        }
        Applied::Done
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::cluster_of;
    use super::*;
    use crate::command::Command;

    fn set(name: &str, value: Option<&str>) -> Command {
        Command::SettingChanged {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        }
    }

    #[test]
    fn a_setting_holds_until_it_is_given_back() {
        let mut state = cluster_of(0);
        assert_eq!(
            (state.session_timer_secs(), state.setting("session_timer_secs")),
            (1800, None)
        );
        let changed = vec![Change::Setting {
            name: "session_timer_secs".to_owned(),
        }];
        assert_eq!(
            state.apply(set("session_timer_secs", Some("600"))),
            (Applied::Done, changed.clone())
        );
        assert_eq!(
            (state.session_timer_secs(), state.setting("session_timer_secs")),
            (600, Some("600"))
        );
        assert_eq!(
            state.apply(set("session_timer_secs", Some("600"))),
            (Applied::Done, Vec::new())
        );
        assert_eq!(
            state.apply(set("session_timer_secs", None)),
            (Applied::Done, changed)
        );
        assert_eq!(
            (state.session_timer_secs(), state.setting("session_timer_secs")),
            (1800, None)
        );
    }

    #[test]
    fn unknown_names_and_values_out_of_range_are_refused() {
        let mut state = cluster_of(0);
        let before = state.clone();
        assert_eq!(
            state.apply(set("session_timer", None)).0,
            Applied::Refused(Refusal::UnknownSetting)
        );
        for value in ["89", "86401", "-1", "", "ten", "600.5"] {
            let refused = Applied::Refused(Refusal::ValueNotAccepted);
            assert_eq!(
                state.apply(set("session_timer_secs", Some(value))).0,
                refused,
                "{value}"
            );
        }
        assert_eq!(state, before);
    }

    #[test]
    fn every_setting_is_found_by_its_name_and_accepts_its_default_and_its_ends() {
        for (position, setting) in SettingName::ALL.into_iter().enumerate() {
            assert_eq!(setting as usize, position, "ALL is in the order of the variants");
            assert_eq!(SettingName::parse(setting.as_str()), Some(setting));
            match setting.kind() {
                SettingKind::Number {
                    least,
                    greatest,
                    default,
                } => {
                    assert!((least..=greatest).contains(&default), "{setting:?}");
                    assert!(setting.accepts(&least.to_string()) && setting.accepts(&greatest.to_string()));
                    assert!(!setting.accepts(&(greatest + 1).to_string()), "{setting:?}");
                }
                SettingKind::Word { accepted } => {
                    assert!(accepted.iter().all(|word| setting.accepts(word)), "{setting:?}");
                    assert!(!setting.accepts("") && !setting.accepts("0"), "{setting:?}");
                }
            }
        }
    }

    #[test]
    fn a_word_is_read_as_a_word_and_as_no_number() {
        let mut state = cluster_of(0);
        let delivery = SettingName::CalendarDelivery;
        assert_eq!(state.setting_word(delivery), None);
        assert_eq!(
            state.apply(set("calendar_delivery", Some("pull"))).0,
            Applied::Done
        );
        assert_eq!(state.setting_word(delivery), Some("pull"));
        assert_eq!(
            (state.setting_number(delivery), state.setting_or_default(delivery)),
            (None, 0)
        );
        assert_eq!(
            state.apply(set("calendar_delivery", Some("pigeon"))).0,
            Applied::Refused(Refusal::ValueNotAccepted)
        );
        assert_eq!(state.setting_word(SettingName::CalendarSpreadSecs), None);
    }
}
