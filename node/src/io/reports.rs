//! What the gateway reports, as lines of the log and as metrics.

use tandem_cluster::ClusterState;
use tracing::{info, warn};

use crate::cti::CtiConnectionId;
use crate::gateway::{Gateway, Report};
use crate::metrics::NodeMetrics;

use super::clock;

/// Where reports go.
pub struct Reporter {
    pub metrics: NodeMetrics,
    /// The names of the CTI connections, in configured order.
    pub cti_names: Vec<String>,
}

impl Reporter {
    pub(super) fn report(&self, report: &Report, gateway: &Gateway) {
        self.metrics.record(report, &self.cti_names);
        log(report, &self.cti_names);
        if matches!(
            report,
            Report::CtiInService { .. } | Report::CtiOutOfService { .. }
        ) {
            self.show_connections(gateway);
        }
    }

    /// How things are now.
    pub(super) fn show(&self, gateway: &Gateway, state: &ClusterState) {
        self.metrics.show_census(&gateway.census(), &self.cti_names);
        self.metrics.show_replicated_watchers(state.watchers().len());
        self.show_connections(gateway);
    }

    fn show_connections(&self, gateway: &Gateway) {
        let now = clock::instant();
        for status in gateway.cti_statuses() {
            self.metrics.show_cti(&status, now);
        }
    }
}

/// What comes many times a second is counted, not logged.
fn log(report: &Report, cti_names: &[String]) {
    let name_of =
        |connection: &CtiConnectionId| cti_names.get(connection.0).map_or("unknown", String::as_str);
    match report {
        Report::SessionStarted {
            key,
            user,
            line,
            device,
            connection,
            replicated,
            subject,
        } => {
            let connection = name_of(connection);
            info!(session = %key, user, line, device, connection, replicated, subject, "session started");
        }
        Report::SessionMovedHere { key, user, epoch } => {
            info!(session = %key, user, epoch, "session moved here")
        }
        Report::SessionMovedAway { key, to } => {
            let to = to.map(|node| node.to_string());
            info!(session = %key, to, "session moved away");
        }
        Report::SessionRebalanced { key } => info!(session = %key, "session handed over"),
        Report::SessionRelinked { key, connection } => {
            let connection = name_of(connection);
            info!(session = %key, connection, "session goes on at a CTI connection");
        }
        Report::SessionEnded { key, user, reason } => {
            info!(session = %key, user, reason = reason.label(), "session ended");
        }
        Report::Fenced { key } => {
            warn!(session = %key, "a front end says that another node owns the session")
        }
        Report::IntentRepeated {
            service,
            known_result,
        } => {
            info!(
                service,
                known_result, "a repeated command is not carried out again"
            );
        }
        Report::CtiInService { connection } => {
            info!(connection = name_of(connection), "CTI connection in service");
        }
        Report::CtiOutOfService { connection, reason } => {
            warn!(connection = name_of(connection), %reason, "CTI connection out of service");
        }
        Report::Watcher(_)
        | Report::Published(_)
        | Report::Answered { .. }
        | Report::CstaError { .. }
        | Report::EventSent { .. }
        | Report::EventUnanswered
        | Report::EventOfUnknownMonitor
        | Report::EventDropped => {}
    }
}
