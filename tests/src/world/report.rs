//! What a day came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::administrator::Deed;
use super::faults::FaultKind;
use super::properties::Property;

/// What a day came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayReport {
    pub faults: BTreeMap<FaultKind, u64>,
    pub deeds: BTreeMap<Deed, u64>,
    /// How many things each property was judged of.
    pub judged: BTreeMap<Property, u64>,
    pub requests: usize,
    pub calls: usize,
    pub commands: usize,
    /// Events that came twice or too early, while that was to be expected.
    pub tolerated: usize,
    /// The longest that members took, after what was wrong was put right, until calls were judged.
    pub recovered_within: Duration,
    /// The same until every calendar was heard and shown rightly.
    pub calendars_recovered_within: Duration,
}

impl DayReport {
    pub(super) fn judged(&mut self, property: Property, count: u64) {
        *self.judged.entry(property).or_default() += count;
    }

    /// `{simulated_ms, trace, requests, calls, commands, faults: {KIND: COUNT}, deeds: {KIND: COUNT}, judged: {PROPERTY:
    /// COUNT}}`.
    #[must_use]
    pub fn to_json(&self, simulated: Duration, trace: u32) -> serde_json::Value {
        serde_json::json!({
            "simulated_ms": u64::try_from(simulated.as_millis()).unwrap_or(u64::MAX),
            "trace": trace,
            "requests": self.requests,
            "calls": self.calls,
            "commands": self.commands,
            "faults": by_name(&self.faults),
            "deeds": by_name(&self.deeds),
            "judged": by_name(&self.judged),
        })
    }
}

fn by_name<K: fmt::Debug>(counts: &BTreeMap<K, u64>) -> serde_json::Map<String, serde_json::Value> {
    let named = counts
        .iter()
        .map(|(name, count)| (format!("{name:?}"), (*count).into()));
    named.collect()
}

fn listed<K: fmt::Debug>(counts: &BTreeMap<K, u64>) -> String {
    let listed: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{name:?} {count}"))
        .collect();
    listed.join(", ")
}

impl fmt::Display for DayReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} requests, {} calls, {} commands at the PBX, {} events tolerated; recovered within {:?}, calendars within \
             {:?}; faults: {}; deeds: {}; judged: {}",
            self.requests,
            self.calls,
            self.commands,
            self.tolerated,
            self.recovered_within,
            self.calendars_recovered_within,
            listed(&self.faults),
            listed(&self.deeds),
            listed(&self.judged),
        )
    }
}
