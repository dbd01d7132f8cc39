//! `/settings`: what an administrator can change at run time.

use std::collections::BTreeMap;

use serde::Deserialize;
use tandem_cluster::{ClusterState, Command, SettingKind, SettingName};

/// `GET /settings`: every setting with its value, or its default.
#[must_use]
pub fn settings(state: &ClusterState) -> BTreeMap<&'static str, serde_json::Value> {
    let value = |name: SettingName| match name.kind() {
        SettingKind::Number { .. } => state.setting_or_default(name).into(),
        SettingKind::Word { .. } => state.setting_word_or_default(name).into(),
    };
    let all = SettingName::ALL.into_iter();
    all.map(|name| (name.as_str(), value(name))).collect()
}

/// `POST /settings`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingBody {
    name: String,
    /// Absent or null: back to the default.
    #[serde(default)]
    value: Option<serde_json::Value>,
}

impl SettingBody {
    #[must_use]
    pub fn command(self) -> Command {
        let value = self.value.map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned)
        });
        let name = self.name;
        Command::SettingChanged { name, value }
    }
}
