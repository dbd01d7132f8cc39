//! One question to the admin listener, and its answer.

use crate::io::environment::net::TcpStream;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Why there is nothing to show.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(
        "cannot reach {admin}: {reason}; check that the program is running and that this is its [admin] listen address"
    )]
    NoAnswer { admin: SocketAddr, reason: String },
    /// The program's own words.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("unexpected answer from {admin}: {reason}")]
    Malformed { admin: SocketAddr, reason: String },
    #[error("cannot read {path}: {reason}")]
    File { path: String, reason: String },
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Asks one admin listener.
#[derive(Debug)]
pub struct AdminClient {
    admin: SocketAddr,
    runtime: Runtime,
}

impl AdminClient {
    /// # Errors
    /// When the operating system has no means left.
    pub fn new(admin: SocketAddr) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self { admin, runtime })
    }

    /// # Errors
    /// When nobody answers, or the answer is a refusal or not JSON.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, body.to_string().into())
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ClientError> {
        // A wait begins inside the runtime.
        let asked = async { timeout(PATIENCE, self.exchange(method, path, body)).await };
        let answered = self.runtime.block_on(asked);
        let (status, body) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.no_answer(error.to_string())),
            Err(_) => return Err(self.no_answer(format!("nothing came within {} s", PATIENCE.as_secs()))),
        };
        let value: Value = serde_json::from_slice(&body).map_err(|error| ClientError::Malformed {
            admin: self.admin,
            reason: format!("{status}, {error}"),
        })?;
        if status.is_success() {
            return Ok(value);
        }
        let message = value["error"].as_str().unwrap_or("refused").to_owned();
        Err(ClientError::Refused { status, message })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.admin.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    fn no_answer(&self, reason: String) -> ClientError {
        ClientError::NoAnswer {
            admin: self.admin,
            reason,
        }
    }
}

/// A probe of many gateways, each in its own patience.
const PATIENCE: Duration = Duration::from_secs(90);
const ANSWER_BYTES_MAX: usize = 64 << 20;
