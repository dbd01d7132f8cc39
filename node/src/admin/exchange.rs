//! `/exchange/…`: the configured CAS with their health, and explanations of users' assignments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tandem_cluster::{Assignment, CasEndpoint, CasGateway, CasId, ClusterState, Command, NodeId};

use super::Denied;
use super::presence::CalendarView;
use crate::calendar::probing::ProbedCas;
use crate::calendar::{BreakerState, CasHealth, Explanation};
use crate::config::is_host;
use crate::directory::Directory;
use crate::metrics::reason_label;

/// `GET /exchange/status`.
#[derive(Debug, Serialize)]
pub struct StatusView {
    pub node: String,
    pub account: AccountView,
    /// All traffic is stopped, except for one probe per minute.
    pub credential_refused: bool,
    pub gateways: Vec<CasStatusView>,
}

/// The service account, without its password.
#[derive(Debug, Clone, Serialize)]
pub struct AccountView {
    pub name: String,
    pub authentication: &'static str,
}

/// One CAS as it is configured; an element of `GET /exchange/gateways`.
#[derive(Debug, Serialize)]
pub struct CasView {
    name: String,
    host: String,
    port: u16,
    description: String,
    channel_binding: bool,
    legacy_algorithms: bool,
    eligible: bool,
    /// Eligible, and no node's breaker is open.
    takes_users: bool,
    broken_for: Vec<String>,
    /// In the whole cluster.
    users: usize,
}

/// One CAS and how it fares; an element of [`StatusView`].
#[derive(Debug, Serialize)]
pub struct CasStatusView {
    #[serde(flatten)]
    cas: CasView,
    /// Everything that was checked works, and no breaker is open.
    well: bool,
    probe: ProbedCas,
    /// How this node sees it.
    here: Option<HealthView>,
}

/// [`CasHealth`], without what is shown elsewhere.
#[derive(Debug, Serialize)]
struct HealthView {
    users: usize,
    subscribed: usize,
    push_unreachable: usize,
    streams: usize,
    breaker: &'static str,
    breaker_since_ms: Option<u64>,
    refuses_account: bool,
    in_flight: usize,
    queued: usize,
    concurrency: usize,
    back_off_until_ms: Option<u64>,
    requests: u64,
    failures: u64,
    throttled: u64,
    refused: u64,
    last_success_ms: Option<u64>,
    last_latency_ms: Option<u64>,
    last_failure_ms: Option<u64>,
    last_failure: Option<String>,
}

impl HealthView {
    fn of(health: &CasHealth) -> Self {
        let latency = health.last_latency.map(|latency| latency.as_millis());
        Self {
            users: health.users,
            subscribed: health.subscribed,
            push_unreachable: health.push_unreachable,
            streams: health.streams,
            breaker: health.breaker.as_str(),
            breaker_since_ms: health.breaker_since_ms,
            refuses_account: health.refuses_account,
            in_flight: health.in_flight,
            queued: health.queued,
            concurrency: health.concurrency,
            back_off_until_ms: health.back_off_until_ms,
            requests: health.requests,
            failures: health.failures,
            throttled: health.throttled,
            refused: health.refused,
            last_success_ms: health.last_success_ms,
            last_latency_ms: latency.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
            last_failure_ms: health.last_failure_ms,
            last_failure: health.last_failure.clone(),
        }
    }
}

/// Every CAS, in configured order.
#[must_use]
pub fn cas_list(state: &ClusterState) -> Vec<CasView> {
    let mut users: BTreeMap<&CasId, usize> = BTreeMap::new();
    for assignment in state.assignments().values() {
        *users.entry(&assignment.cas).or_default() += 1;
    }
    let cas_list = state.cas_gateways().iter();
    cas_list
        .map(|cas| cas_view(cas, users.get(&cas.id).copied().unwrap_or(0)))
        .collect()
}

fn cas_view(cas: &CasGateway, users: usize) -> CasView {
    let endpoint = &cas.endpoint;
    CasView {
        name: cas.id.to_string(),
        host: endpoint.host.clone(),
        port: endpoint.port,
        description: endpoint.description.clone(),
        channel_binding: endpoint.channel_binding,
        legacy_algorithms: endpoint.legacy_algorithms,
        eligible: cas.eligible,
        takes_users: cas.takes_users(),
        broken_for: cas.broken_for.iter().map(NodeId::to_string).collect(),
        users,
    }
}

/// A CAS that was removed or added since the check is left out.
#[must_use]
pub fn cas_with_status(
    state: &ClusterState,
    health: &[CasHealth],
    probed: Vec<ProbedCas>,
) -> Vec<CasStatusView> {
    let mut probed: BTreeMap<String, ProbedCas> = probed
        .into_iter()
        .map(|probe| (probe.name.clone(), probe))
        .collect();
    let with_status = |cas: CasView| {
        let probe = probed.remove(&cas.name)?;
        let here = health.iter().find(|health| health.cas.0 == cas.name);
        let closed = here.is_none_or(|health| health.breaker == BreakerState::Closed);
        Some(CasStatusView {
            well: probe.is_well() && closed && cas.broken_for.is_empty(),
            probe,
            here: here.map(HealthView::of),
            cas,
        })
    };
    cas_list(state).into_iter().filter_map(with_status).collect()
}

/// `GET /exchange/users/USER`: the user's assignment with its reason, and the state of the calendar.
#[derive(Debug, Serialize)]
pub struct UserView {
    user: String,
    mail: Option<String>,
    /// The calendar is part of the user's presence.
    enabled: bool,
    /// Who decided that.
    enabled_by: &'static str,
    /// Absent for a user without a CAS.
    #[serde(flatten)]
    assignment: Option<AssignmentView>,
    /// The node that owns the calendar.
    owner: Option<String>,
    /// What was published last.
    calendar: Option<CalendarView>,
    /// Present at the owner; at another node, `ask` says which node knows more.
    here: Option<ExplanationView>,
    ask: Option<String>,
}

#[derive(Debug, Serialize)]
struct AssignmentView {
    gateway: String,
    epoch: u32,
    since_ms: u64,
    reason: &'static str,
}

/// [`Explanation`], without what is replicated.
#[derive(Debug, Serialize)]
struct ExplanationView {
    mailbox: String,
    subscription: &'static str,
    delivery: Option<&'static str>,
    subscribed_at_ms: Option<u64>,
    last_heard_ms: Option<u64>,
    last_event_ms: Option<u64>,
    last_read_ms: Option<u64>,
    known_until_ms: Option<u64>,
    next_read_ms: Option<u64>,
    next_edge_ms: Option<u64>,
    next_retry_ms: Option<u64>,
    trouble: Option<&'static str>,
    push_unreachable: bool,
    moves: u32,
}

impl UserView {
    /// `None` if the user is unknown.
    #[must_use]
    pub fn of(
        state: &ClusterState,
        directory: &Directory,
        here: NodeId,
        user: &str,
        explained: Option<Explanation>,
    ) -> Option<Self> {
        let known = directory.user(user);
        let assignment = state.assignment(user);
        if known.is_none() && assignment.is_none() {
            return None;
        }
        let by_administrator = state.calendar_enabled(user);
        let has_mail = known.is_some_and(|known| known.mail.is_some());
        let by_directory = known.is_some_and(|known| known.calendar);
        let owner = state.calendar_owner(user);
        let calendar = state.presence(user).and_then(|record| record.calendar);
        let is_here = owner == Some(here);
        Some(Self {
            user: user.to_owned(),
            mail: known.and_then(|known| known.mail.clone()),
            enabled: has_mail && by_administrator.unwrap_or(by_directory),
            enabled_by: match (by_administrator, has_mail) {
                (_, false) => "none: the directory has no mail address",
                (Some(_), true) => "an administrator",
                (None, true) => "the directory",
            },
            assignment: assignment.map(AssignmentView::of),
            owner: owner.map(|owner| owner.to_string()),
            calendar: calendar.map(CalendarView::of),
            here: explained.filter(|_| is_here).map(ExplanationView::of),
            ask: owner.filter(|_| !is_here).map(|owner| {
                format!("node {owner} owns this calendar and knows more: ask its admin listener")
            }),
        })
    }
}

impl AssignmentView {
    fn of(assignment: &Assignment) -> Self {
        Self {
            gateway: assignment.cas.to_string(),
            epoch: assignment.epoch,
            since_ms: assignment.since_ms,
            reason: reason_label(assignment.reason),
        }
    }
}

impl ExplanationView {
    fn of(explanation: Explanation) -> Self {
        Self {
            mailbox: explanation.mailbox.0,
            subscription: explanation.subscription.as_str(),
            delivery: explanation.delivery.map(|delivery| delivery.as_str()),
            subscribed_at_ms: explanation.subscribed_at_ms,
            last_heard_ms: explanation.last_heard_ms,
            last_event_ms: explanation.last_event_ms,
            last_read_ms: explanation.last_read_ms,
            known_until_ms: explanation.known_until_ms,
            next_read_ms: explanation.next_read_ms,
            next_edge_ms: explanation.next_edge_ms,
            next_retry_ms: explanation.next_retry_ms,
            trouble: explanation.trouble.map(|class| class.label()),
            push_unreachable: explanation.push_unreachable,
            moves: explanation.moves,
        }
    }
}

/// `POST /exchange/gateways`: the complete list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CasListBody {
    gateways: Vec<CasBody>,
}

impl CasListBody {
    /// `at_ms`: now, in Unix milliseconds.
    ///
    /// # Errors
    /// If one of them has no usable name, host or port.
    pub fn command(self, at_ms: u64) -> Result<Command, Denied> {
        let checked = self.gateways.into_iter().map(CasBody::checked);
        let gateways = checked.collect::<Result<_, _>>()?;
        Ok(Command::CasGatewaysConfigured { gateways, at_ms })
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.gateways.len()
    }
}

/// As `[[exchange.gateway]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasBody {
    name: String,
    host: Option<String>,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default)]
    description: String,
    #[serde(default = "default_channel_binding")]
    channel_binding: bool,
    #[serde(default)]
    legacy_algorithms: bool,
}

impl CasBody {
    fn checked(self) -> Result<(CasId, CasEndpoint), Denied> {
        let host = self.host.unwrap_or_else(|| self.name.clone());
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(Denied::bad_request(format!(
                "a gateway's name must have 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
        if !is_host(&host) || self.port == 0 {
            let wanted = "a host name or an IP address without brackets, and a port from 1";
            return Err(Denied::bad_request(format!(
                "{}: {host:?} port {} is not {wanted}",
                self.name, self.port
            )));
        }
        let endpoint = CasEndpoint {
            host,
            port: self.port,
            description: self.description,
            channel_binding: self.channel_binding,
            legacy_algorithms: self.legacy_algorithms,
        };
        Ok((CasId(self.name), endpoint))
    }
}

fn default_port() -> u16 {
    443
}

fn default_channel_binding() -> bool {
    true
}

/// `POST /exchange/gateways/eligible`: whether the cluster gives users to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EligibleBody {
    name: String,
    eligible: bool,
}

impl EligibleBody {
    #[must_use]
    pub fn command(self) -> Command {
        Command::CasEligible {
            cas: CasId(self.name),
            eligible: self.eligible,
        }
    }
}

const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(body: &str) -> Result<Command, Denied> {
        serde_json::from_str::<CasListBody>(body).unwrap().command(7)
    }

    #[test]
    fn a_cas_is_reached_under_its_name_unless_it_has_a_host() {
        let command =
            configured(r#"{"gateways": [{"name": "cas-1"}, {"name": "b", "host": "cas2.lab.test"}]}"#);
        let Ok(Command::CasGatewaysConfigured { gateways, at_ms: 7 }) = command else {
            panic!("{command:?}")
        };
        let hosts: Vec<_> = gateways
            .iter()
            .map(|(_, endpoint)| endpoint.host.as_str())
            .collect();
        assert_eq!(hosts, ["cas-1", "cas2.lab.test"]);
        assert!(gateways.iter().all(|(_, endpoint)| endpoint.port == 443));
    }

    #[test]
    fn a_cas_that_cannot_be_reached_is_refused() {
        for body in [
            r#"{"gateways": [{"name": ""}]}"#,
            r#"{"gateways": [{"name": "cas 1"}]}"#,
            r#"{"gateways": [{"name": "cas-1", "port": 0}]}"#,
            r#"{"gateways": [{"name": "cas-1", "host": "[::1]"}]}"#,
        ] {
            let denied = configured(body).unwrap_err();
            assert_eq!(denied.fault, crate::admin::Fault::BadRequest, "{body}");
        }
    }
}
