//! Just enough HTTP to ask an admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tandem_runtime::io::environment::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    pub body: String,
}

impl HttpResponse {
    /// The body of a 2xx as JSON; an empty one is null.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        if !(200..300).contains(&self.status) {
            bail!("{}: {}", self.status, self.body);
        }
        if self.body.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Nobody was there: what was asked for was certainly not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody answers a connection")]
pub struct NotConnected;

/// POST of a JSON value to an admin listener; the JSON answer, which must be a 2xx.
pub async fn post_to(
    address: SocketAddr,
    path: &str,
    body: &serde_json::Value,
) -> anyhow::Result<serde_json::Value> {
    request(address, "POST", path, &body.to_string()).await?.json()
}

/// GET of a JSON value from an admin listener.
pub async fn get_from(address: SocketAddr, path: &str) -> anyhow::Result<serde_json::Value> {
    request(address, "GET", path, "").await?.json()
}

/// The status of a GET, whatever it is.
pub async fn status_of(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    Ok(request(address, "GET", path, "").await?.status)
}

/// One request over a connection of its own.
pub(super) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<HttpResponse> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.context(NotConnected)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8(answer)?)
    };
    let answer = tokio::time::timeout(REQUEST_DEADLINE, exchange)
        .await
        .with_context(|| format!("{method} {path} of {address} is not answered"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP response")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .context("no HTTP status")?;
    Ok(HttpResponse {
        status,
        body: body.to_owned(),
    })
}

/// A frozen process accepts and never answers.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
