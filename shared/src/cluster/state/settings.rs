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
