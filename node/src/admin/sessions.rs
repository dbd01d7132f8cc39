//! `/sessions`: the sessions of the cluster, and evening them out.

use serde::{Deserialize, Serialize};
use tandem_cluster::ClusterState;

use super::Denied;
use crate::rebalancing::Share;

/// A session; an element of `GET /sessions`.
#[derive(Debug, Serialize)]
pub struct SessionView {
    key: String,
    user: String,
    line: String,
    device: String,
    owner: String,
    epoch: u32,
    cti_connection: Option<String>,
    monitor: bool,
    calls: usize,
    expires_at_ms: u64,
}

/// All sessions of the cluster.
#[must_use]
pub fn sessions(state: &ClusterState) -> Vec<SessionView> {
    let sessions = state.sessions();
    sessions
        .map(|session| SessionView {
            key: session.key.to_string(),
            user: session.user.clone(),
            line: session.line.clone(),
            device: session.device.clone(),
            owner: session.owner.to_string(),
            epoch: session.epoch.0,
            cti_connection: session.cti_connection.clone(),
            monitor: session.monitor.active,
            calls: session.calls.len(),
            expires_at_ms: session.expires_at_ms,
        })
        .collect()
}

/// `POST /sessions/rebalance`, `POST /exchange/rebalance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalanceBody {
    #[serde(default = "default_per_second")]
    per_second: u32,
}

impl RebalanceBody {
    /// # Errors
    /// If the rate is none, or above what is allowed.
    pub fn per_second(&self, share: Share) -> Result<u32, Denied> {
        let most = share.per_second_max();
        match (1..=most).contains(&self.per_second) {
            true => Ok(self.per_second),
            false => Err(Denied::bad_request(format!(
                "per_second must be between 1 and {most}"
            ))),
        }
    }
}

fn default_per_second() -> u32 {
    50
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_has_a_limit_of_its_own_for_each_share() {
        let asked = |body: &str, share| {
            let body: RebalanceBody = serde_json::from_str(body).unwrap();
            body.per_second(share).ok()
        };
        assert_eq!(asked("{}", Share::SessionsOfNodes), Some(50));
        assert_eq!(asked(r#"{"per_second": 0}"#, Share::SessionsOfNodes), None);
        assert_eq!(asked(r#"{"per_second": 1001}"#, Share::SessionsOfNodes), None);
        assert_eq!(asked(r#"{"per_second": 1001}"#, Share::UsersOfCas), Some(1001));
        assert_eq!(asked(r#"{"per_second": 5001}"#, Share::UsersOfCas), None);
    }
}
