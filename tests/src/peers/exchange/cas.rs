//! The sockets of one Client Access Server: a listener, its connections, and the ways in which both can end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpOptions, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::Site;
use super::request::{self, Refusal};
use super::server::{Head, Reply};
use super::subscriptions::StreamNumber;
use crate::actor::Handle;

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// What every connection of a server looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Serve,
    /// Do nothing, not even a handshake.
    Freeze,
    Die,
}

/// One server, by its number from 0.
#[derive(Debug)]
pub(super) struct Door {
    cas: usize,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    site: Handle<Site>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    orders: watch::Sender<Order>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Door {
    pub(super) fn new(
        cas: usize,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        site: Handle<Site>,
    ) -> Self {
        Self {
            cas,
            address,
            tls,
            site,
            running: None,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens. A port that was 0 is remembered.
    pub(super) async fn open(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("binding a Client Access Server to {}", self.address))?;
        self.address = listener.local_addr()?;
        let (orders, order) = watch::channel(Order::Serve);
        let connection = Connection {
            cas: self.cas,
            tls: self.tls.clone(),
            site: self.site.clone(),
            order,
            client: None,
        };
        self.running = Some(Running {
            orders,
            accepting: tokio::spawn(accept(listener, connection)),
        });
        Ok(())
    }

    pub(super) fn freeze(&self) {
        self.order(Order::Freeze);
    }

    pub(super) fn thaw(&self) {
        self.order(Order::Serve);
    }

    /// The listener is closed and every connection reset.
    pub(super) async fn kill(&mut self) {
        self.order(Order::Die);
        if let Some(running) = self.running.take() {
            running.accepting.abort();
            // The socket is closed when the task has ended, and only then is the address free.
            let _ = running.accepting.await;
        }
    }

    fn order(&self, order: Order) {
        if let Some(running) = &self.running {
            running.orders.send_replace(order);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.order(Order::Die);
        if let Some(running) = self.running.take() {
            running.accepting.abort();
        }
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Connection {
    cas: usize,
    tls: Option<Arc<ServerConfig>>,
    site: Handle<Site>,
    order: watch::Receiver<Order>,
    /// The other end.
    client: Option<IpAddr>,
}

async fn accept(listener: TcpListener, connection: Connection) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection.clone().run(stream));
    }
}

impl Connection {
    /// Serves until the client has gone or the server dies.
    async fn run(mut self, mut stream: TcpStream) {
        self.client = stream.peer_addr().ok().map(|address| address.ip());
        let _ = stream.tune(&TcpOptions::default());
        let mut order = self.order.clone();
        let died = tokio::select! {
            () = self.serve(&mut stream) => false,
            _ = order.wait_for(|order| *order == Order::Die) => true,
        };
        if died {
            // A reset, as a machine says that knows nothing of the connection.
            stream.reset_when_dropped();
        }
    }

    async fn serve(mut self, stream: &mut TcpStream) {
        if self
            .order
            .wait_for(|order| *order != Order::Freeze)
            .await
            .is_err()
        {
            return;
        }
        match self.tls.clone() {
            None => self.serve_http(stream).await,
            Some(config) => {
                if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                    self.serve_http(stream).await;
                }
            }
        }
    }

    async fn serve_http(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| self.respond(request));
        // A client that goes away in the middle is no news.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        // A machine that stands still reads nothing, on old connections no more than on new ones.
        let mut order = self.order.clone();
        let _ = order.wait_for(|order| *order != Order::Freeze).await;
        if let Some(refusal) = self.misdirected(&request) {
            return Ok(refusal);
        }
        let head = Head {
            client: self.client,
            ..head(request.headers())
        };
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX)
            .collect()
            .await;
        let read = match body {
            Ok(body) => read(&body.to_bytes()),
            Err(_) => Err(unreadable("the body is too large or cut off")),
        };
        let cas = self.cas;
        let (reply, documents) = self
            .site
            .ask(move |site| site.request(cas, &head, &read, environment::now()))
            .await;
        let _finished = Finished(self);
        self.write(reply, documents).await
    }

    /// Anything but a POST of XML to where EWS is.
    fn misdirected(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let content_type = request.headers().get("content-type");
        let is_xml = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/xml"));
        let status = if !request.uri().path().eq_ignore_ascii_case("/EWS/Exchange.asmx") {
            StatusCode::NOT_FOUND
        } else if request.method() != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else if !is_xml {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        } else {
            return None;
        };
        let what = format!(
            "{} {} of type {content_type:?}: {status}",
            request.method(),
            request.uri()
        );
        self.site.tell(move |site| site.servers.violation(what));
        Some(response(status.as_u16(), &[], Vec::new()))
    }

    async fn write(
        &self,
        reply: Reply,
        documents: Option<mpsc::UnboundedReceiver<String>>,
    ) -> Result<Response<Body>, Infallible> {
        match reply {
            Reply::Answer {
                status,
                headers,
                body,
                after,
            } => {
                tokio::time::sleep(after).await;
                Ok(response(status, &headers, vec![Ok(body)]))
            }
            Reply::Stream { stream, .. } => {
                let documents = documents.expect("a stream comes with its documents");
                Ok(self.streaming(stream, documents))
            }
            Reply::Hang => std::future::pending().await,
            Reply::CutOff { body } => {
                let half = body.chars().take(body.len() / 2).collect();
                let cut = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                Ok(response(200, &[], vec![Ok(half), Err(cut)]))
            }
        }
    }

    fn streaming(&self, stream: StreamNumber, documents: mpsc::UnboundedReceiver<String>) -> Response<Body> {
        let open = OpenStream {
            cas: self.cas,
            stream,
            site: self.site.clone(),
            order: self.order.clone(),
            documents,
        };
        let frames = futures::stream::unfold(open, |mut open| async move {
            let document = open.next().await?;
            Some((Ok(Frame::data(Bytes::from(document))), open))
        });
        let mut response = Response::new(StreamBody::new(frames.boxed()));
        response
            .headers_mut()
            .insert("content-type", XML.parse().expect("a fixed value"));
        response
    }
}

/// Tells the site that a request is over, however it ended.
struct Finished<'a>(&'a Connection);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        let cas = self.0.cas;
        self.0.site.tell(move |site| site.servers.finished(cas));
    }
}

/// Tells the site when the connection of a stream is gone.
struct OpenStream {
    cas: usize,
    stream: StreamNumber,
    site: Handle<Site>,
    order: watch::Receiver<Order>,
    documents: mpsc::UnboundedReceiver<String>,
}

impl OpenStream {
    async fn next(&mut self) -> Option<String> {
        let document = self.documents.recv().await?;
        // What was under way when the server froze stays there.
        self.order.wait_for(|order| *order != Order::Freeze).await.ok()?;
        Some(document)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let (cas, stream) = (self.cas, self.stream);
        self.site
            .tell(move |site| site.stream_lost(cas, stream, environment::now()));
    }
}

fn read(body: &[u8]) -> Result<request::Request, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable("the body is no UTF-8"))?;
    request::Request::read(text)
}

fn unreadable(text: &str) -> Refusal {
    Refusal {
        code: "ErrorSchemaValidation",
        text: text.to_owned(),
    }
}

fn head(headers: &HeaderMap) -> Head {
    let text = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let cookies = headers
        .get_all("cookie")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let back_end = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("X-BackEndOverrideCookie="));
    Head {
        authorization: text("authorization"),
        accept_encoding: text("accept-encoding"),
        anchor: text("x-anchormailbox"),
        back_end: back_end.map(str::to_owned),
        client: None,
    }
}

fn response(
    status: u16,
    headers: &[(&'static str, String)],
    parts: Vec<Result<String, std::io::Error>>,
) -> Response<Body> {
    let frames = parts
        .into_iter()
        .map(|part| part.map(|text| Frame::data(Bytes::from(text))));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames).boxed()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a story names real statuses");
    let fixed = [("content-type", XML.to_owned())];
    for (name, value) in fixed.iter().chain(headers) {
        let value = value.parse().expect("a simulated header is ASCII");
        response
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    response
}

const XML: &str = "text/xml; charset=utf-8";
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
