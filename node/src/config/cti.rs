//! `[cti]`: the CTI connections, in order of priority.

use std::collections::BTreeSet;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::config::Section;

use super::millis;
use crate::cti::{ApplicationSessionSettings, CtiConnectionSettings, CtiSettings, OUTSTANDING_MAX};

/// The settings, and how long connecting may take.
pub(super) fn read(section: &mut Section, id: Option<NodeId>) -> (CtiSettings, Duration) {
    let connections: Vec<CtiConnectionSettings> = section
        .sections("connection")
        .iter_mut()
        .filter_map(read_connection)
        .collect();
    if connections.is_empty() {
        section.problem("connection", "there is none", "at least one [[cti.connection]]");
    }
    let names: BTreeSet<&str> = connections
        .iter()
        .map(|connection| connection.name.as_str())
        .collect();
    if names.len() < connections.len() {
        section.problem(
            "connection",
            "two CTI connections have the same name",
            "a name per connection",
        );
    }
    let mut settings = CtiSettings::new(connections);
    settings.heartbeat_interval = section.duration_or(
        "heartbeat_interval_ms",
        settings.heartbeat_interval,
        millis(50, 3_600_000),
    );
    settings.heartbeat_timeout = section.duration_or(
        "heartbeat_timeout_ms",
        settings.heartbeat_timeout,
        millis(50, 3_600_000),
    );
    settings.request_timeout = section.duration_or(
        "request_timeout_ms",
        Duration::from_secs(4),
        millis(50, 3_600_000),
    );
    settings.reconnect_interval = section.duration_or(
        "reconnect_interval_ms",
        settings.reconnect_interval,
        millis(50, 3_600_000),
    );
    settings.outstanding_max = section.number_or(
        "outstanding_requests",
        settings.outstanding_max,
        1..=OUTSTANDING_MAX,
    );
    settings.waiting_max = section.number_or("waiting_requests", settings.waiting_max, 0..=1_000_000);
    let connect_timeout =
        section.duration_or("connect_timeout_ms", Duration::from_secs(3), millis(50, 60_000));
    if section.flag_or("application_session", true) {
        settings.application_session = Some(ApplicationSessionSettings {
            application_id: format!("tandem-{}", id.unwrap_or(NodeId(0))),
            duration_secs: section.number_or("application_session_secs", 60, 10..=86_400),
        });
    }
    (settings, connect_timeout)
}

fn read_connection(section: &mut Section) -> Option<CtiConnectionSettings> {
    let name = section.text("name");
    let address = section.text("address");
    if let Some(address) = &address
        && address
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        section.problem("address", format!("{address:?} is not accepted"), "host:port");
    }
    Some(CtiConnectionSettings {
        name: name?,
        address: address?,
    })
}
