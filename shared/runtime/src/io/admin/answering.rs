//! What is answered to a request: by the built-in routes, or by the routes of the binary behind the guard.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, StatusCode};
use prometheus::{Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::guard::{self, HostNames};
use super::message::{AdminRequest, AdminResponse};
use super::readiness::Readiness;
use super::{AdminState, Router};
use crate::io::shutdown::Stage;
use crate::io::telemetry::{log_filter, set_log_filter};

pub(super) async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    state: &AdminState,
    router: &Router,
    stage: Stage,
) -> AdminResponse {
    // A HEAD is answered as a GET, and hyper leaves the body out.
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => AdminResponse::text(StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, "/readyz") => readyz(&state.readiness, stage),
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(&state.registry),
        (_, "/livez" | "/readyz" | "/metrics") => AdminResponse::method_not_allowed(),
        _ => routed(request, from, &state.names, router).await,
    }
}

/// What may change something leaves a line, whatever comes of it.
async fn routed(
    request: Request<Incoming>,
    from: SocketAddr,
    names: &HostNames,
    router: &Router,
) -> AdminResponse {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = match guard::check(&method, request.headers(), names) {
        Ok(()) => match with_body(request).await {
            Ok(request) if request.path == "/log" => log(&request),
            Ok(request) => router(request).await,
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    if !guard::is_safe(&method) {
        info!(target: "audit", %from, %method, path, status = answer.status.as_u16(), "asked for a change");
    }
    answer
}

fn readyz(readiness: &Readiness, stage: Stage) -> AdminResponse {
    let mut reasons = readiness.reasons();
    if stage != Stage::Serving {
        reasons.push(("draining", "the process is on its way out".to_owned()));
    }
    if reasons.is_empty() {
        return AdminResponse::text(StatusCode::OK, "ok\n");
    }
    let lines: String = reasons
        .iter()
        .map(|(cause, detail)| format!("{cause}: {detail}\n"))
        .collect();
    AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

/// `GET /log`, and `POST /log {"filter": "info,tandem_lb=debug"}`: what is logged, until the process ends.
fn log(request: &AdminRequest) -> AdminResponse {
    if request.method == Method::POST {
        let wanted = match request.json::<LogFilter>() {
            Ok(wanted) => wanted,
            Err(refusal) => return refusal,
        };
        if let Err(error) = set_log_filter(&wanted.filter) {
            return AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string());
        }
    } else if request.method != Method::GET {
        return AdminResponse::method_not_allowed();
    }
    match log_filter() {
        Some(filter) => AdminResponse::json(StatusCode::OK, &LogFilter { filter }),
        None => AdminResponse::not_found(),
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFilter {
    /// Directives of `tracing`, as in `log.filter` of the configuration.
    filter: String,
}

fn metrics(registry: &Registry) -> AdminResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(body) => AdminResponse {
            status: StatusCode::OK,
            content_type: METRICS,
            body: body.into(),
        },
        Err(error) => AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn with_body(request: Request<Incoming>) -> Result<AdminRequest, AdminResponse> {
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_long()),
        Ok(Err(error)) => return Err(AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string())),
        Err(_) => {
            return Err(AdminResponse::error(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive",
            ));
        }
    };
    let path = head.uri.path().to_owned();
    let query = head.uri.query().map(str::to_owned);
    let method = match head.method {
        Method::HEAD => Method::GET,
        other => other,
    };
    Ok(AdminRequest {
        method,
        path,
        query,
        body,
    })
}

fn too_long() -> AdminResponse {
    let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
    AdminResponse::error(StatusCode::PAYLOAD_TOO_LARGE, &message)
}

/// A list of every user's name fits.
pub const BODY_BYTES_MAX: usize = 4 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
