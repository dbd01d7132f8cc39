//! How a Client Access Server calls its clients back, and what it makes of their answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpStream, lookup_host};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Site;
use super::document::{Element, Namespace};
use super::subscriptions::CallbackAnswer;
use crate::actor::Handle;

/// One callback on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) cas: usize,
    pub(super) subscription: String,
    pub(super) url: String,
    pub(super) body: String,
    pub(super) detours: HashMap<SocketAddr, SocketAddr>,
}

/// Makes all callbacks, a bounded number at a time; ends with the sender.
pub(super) async fn run(
    mut calls: mpsc::UnboundedReceiver<Call>,
    tls: Option<Arc<ClientConfig>>,
    site: Handle<Site>,
) {
    let lines = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(call) = calls.recv().await {
        let Ok(line) = Arc::clone(&lines).acquire_owned().await else {
            return;
        };
        let (tls, site) = (tls.clone(), site.clone());
        tokio::spawn(async move {
            let answer = match tokio::time::timeout(PATIENCE, post(&call, tls)).await {
                Ok(Ok(said)) => read(&said, &call.url, &site),
                Ok(Err(error)) => CallbackAnswer::Failed(format!("{error:#}")),
                Err(_) => CallbackAnswer::Failed(format!("no answer within {PATIENCE:?}")),
            };
            drop(line);
            site.tell(move |site| {
                site.servers
                    .callback_answered(call.cas, &call.subscription, &answer, environment::now());
            });
        });
    }
}

/// The body of a 200.
async fn post(call: &Call, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Bytes> {
    let (uri, body): (Uri, _) = (
        call.url.parse().context("reading the callback address")?,
        call.body.clone(),
    );
    let host = uri.host().context("no host")?.trim_matches(['[', ']']).to_owned();
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let addresses = lookup_host(&host, port).await?;
    let address = addresses.first().context("no address")?;
    let address = *call.detours.get(address).unwrap_or(address);
    let stream = TcpStream::connect(address).await.context("connecting")?;
    if !is_secure {
        return exchange(stream, &uri, body).await;
    }
    let Some(config) = tls else {
        bail!("this Exchange trusts nobody's certificate");
    };
    let name = ServerName::try_from(host.clone())?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .context("TLS")?;
    exchange(stream, &uri, body).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    body: String,
) -> anyhow::Result<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().context("no path")?.as_str();
    let request = Request::post(path)
        .header("host", uri.authority().context("no host")?.as_str())
        .header("content-type", "text/xml; charset=utf-8")
        .header("user-agent", "ExchangeServicesClient/15.00")
        .header(
            "soapaction",
            "http://schemas.microsoft.com/exchange/services/2006/messages/SendNotification",
        )
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("sending")?;
    let status = response.status();
    ensure!(status == 200, "HTTP status {status}");
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    connection.abort();
    let body = body
        .map_err(|error| anyhow::anyhow!(error))
        .context("reading the answer")?;
    Ok(body.to_bytes())
}

/// A 200 with anything but a SendNotificationResult is the client's mistake.
fn read(said: &[u8], url: &str, site: &Handle<Site>) -> CallbackAnswer {
    match status(said) {
        Ok(answer) => answer,
        Err(what) => {
            let what = format!("the answer to a callback: {what}");
            let told = format!("{url}: {what}");
            site.tell(move |site| site.servers.violation(told));
            CallbackAnswer::Failed(what)
        }
    }
}

fn status(said: &[u8]) -> Result<CallbackAnswer, String> {
    let text = std::str::from_utf8(said).map_err(|error| error.to_string())?;
    let envelope = Element::parse(text)?;
    if !envelope.is(Namespace::Soap, "Envelope") {
        return Err(format!("{} is no s:Envelope", envelope.label()));
    }
    let body = envelope.required(Namespace::Soap, "Body")?;
    let result = body.required(Namespace::Messages, "SendNotificationResult")?;
    // The case matters: servers compare it with the schema's enumeration.
    match result
        .required(Namespace::Messages, "SubscriptionStatus")?
        .text
        .as_str()
    {
        "OK" => Ok(CallbackAnswer::Ok),
        "Unsubscribe" => Ok(CallbackAnswer::Unsubscribe),
        other => Err(format!("SubscriptionStatus is {other:?}")),
    }
}

/// At once, over all servers.
const CALLS_MAX: usize = 64;
/// A client that takes longer has not answered.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::super::document::{MESSAGES, SOAP};
    use super::*;

    fn answer(status: &str, namespace: &str) -> Result<CallbackAnswer, String> {
        let text = format!(
            "<s:Envelope xmlns:s=\"{SOAP}\"><s:Body><SendNotificationResult xmlns=\"{namespace}\">\
             <SubscriptionStatus>{status}</SubscriptionStatus></SendNotificationResult></s:Body></s:Envelope>"
        );
        super::status(text.as_bytes())
    }

    #[test]
    fn an_answer_is_ok_or_unsubscribe_to_the_letter() {
        assert_eq!(answer("OK", MESSAGES), Ok(CallbackAnswer::Ok));
        assert_eq!(answer("Unsubscribe", MESSAGES), Ok(CallbackAnswer::Unsubscribe));
        assert!(answer("UNSUBSCRIBE", MESSAGES).is_err());
        assert!(answer("OK", "urn:other").is_err());
        assert!(status(b"OK").is_err());
    }
}
