//! What all routes of the admin listener answer with.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use tandem_cluster::{Applied, Command};
use tandem_raft::Cluster;
use tandem_runtime::io::admin::{AdminResponse, StatusCode};

use crate::admin::{Denied, Fault};

/// Either way it is an answer.
pub(super) type Answer = Result<AdminResponse, AdminResponse>;

pub(super) fn ok(value: &impl Serialize) -> AdminResponse {
    AdminResponse::json(StatusCode::OK, value)
}

pub(super) fn bad(message: &str) -> AdminResponse {
    AdminResponse::error(StatusCode::BAD_REQUEST, message)
}

pub(super) fn denied(denied: Denied) -> AdminResponse {
    let code = match denied.fault {
        Fault::BadRequest => StatusCode::BAD_REQUEST,
        Fault::NotFound => StatusCode::NOT_FOUND,
        Fault::Conflict => StatusCode::CONFLICT,
        Fault::DiskNearlyFull => StatusCode::INSUFFICIENT_STORAGE,
        Fault::NotSupported => StatusCode::NOT_IMPLEMENTED,
    };
    AdminResponse::error(code, &denied.message)
}

/// A segment of a path or a parameter that names a user.
pub(super) fn decoded(segment: &str) -> Result<String, AdminResponse> {
    let decoded = percent_decode_str(segment).decode_utf8();
    let decoded = decoded.map_err(|_| bad("the user's id is not UTF-8"))?;
    Ok(decoded.into_owned())
}

/// Writes the command into the log; what the cluster refuses is the caller's mistake.
pub(super) async fn propose(cluster: &Cluster, command: Command) -> Result<Applied, AdminResponse> {
    match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(Applied::Refused(refusal)) => Err(denied(refusal.into())),
        Ok(applied) => Ok(applied),
        Err(error) => Err(AdminResponse::error(
            StatusCode::SERVICE_UNAVAILABLE,
            &error.to_string(),
        )),
    }
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
