//! Settings that hold for the whole cluster and change while it runs (RCC-15).

use serde::{Deserialize, Serialize};

use super::ClusterState;
use crate::cluster::command::{Applied, Change, Refusal};

/// A setting that the cluster knows. All of them are whole numbers; the unit ends the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SettingName {
    SessionTimerSecs,
    CtiHeartbeatIntervalMs,
    CtiHeartbeatTimeoutMs,
    CtiRequestTimeoutMs,
    CtiReconnectIntervalMs,
}

impl SettingName {
    pub const ALL: [Self; 5] = [
        Self::SessionTimerSecs,
        Self::CtiHeartbeatIntervalMs,
        Self::CtiHeartbeatTimeoutMs,
        Self::CtiRequestTimeoutMs,
        Self::CtiReconnectIntervalMs,
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
        }
    }

    /// What holds while nothing was set.
    #[must_use]
    pub fn default_value(self) -> u64 {
        match self {
            Self::SessionTimerSecs => 1800,
            Self::CtiHeartbeatIntervalMs => 5000,
            Self::CtiHeartbeatTimeoutMs => 2000,
            Self::CtiRequestTimeoutMs => 4000,
            Self::CtiReconnectIntervalMs => 1000,
        }
    }

    /// Least and greatest value.
    #[must_use]
    pub fn range(self) -> (u64, u64) {
        match self {
            // RFC 4028 §5: no session interval is below 90 s.
            Self::SessionTimerSecs => (90, 86_400),
            Self::CtiHeartbeatIntervalMs
            | Self::CtiHeartbeatTimeoutMs
            | Self::CtiRequestTimeoutMs
            | Self::CtiReconnectIntervalMs => (50, 3_600_000),
        }
    }

    fn accepts(self, value: &str) -> bool {
        let (least, greatest) = self.range();
        value
            .parse()
            .is_ok_and(|number: u64| (least..=greatest).contains(&number))
    }
}

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

    /// As [`Self::setting_number`], with the default where nothing was set.
    #[must_use]
    pub fn setting_or_default(&self, name: SettingName) -> u64 {
        self.setting_number(name).unwrap_or_else(|| name.default_value())
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
            Some(value) => self.settings.insert(setting, value),
            None => self.settings.remove(&setting),
        };
        if former != value {
            changes.push(Change::SettingChanged { name });
        }
        Applied::Done
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::cluster_of;
    use super::*;
    use crate::cluster::command::Command;

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
        let changed = vec![Change::SettingChanged {
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
    fn every_setting_is_found_by_its_name_and_accepts_its_default() {
        for setting in SettingName::ALL {
            assert_eq!(SettingName::parse(setting.as_str()), Some(setting));
            assert!(
                setting.accepts(&setting.default_value().to_string()),
                "{setting:?}"
            );
        }
    }
}
