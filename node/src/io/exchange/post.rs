//! A request to a CAS, as HTTP.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};

use tandem_exchange::ews::{self, Operation};

/// The request, however often it is sent.
pub(super) struct Post {
    /// In addition to those that all requests have.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Post {
    /// To `host`, once; `body` is empty while only the account is shown.
    pub(super) fn request(
        &self,
        host: &str,
        authorization: Option<&str>,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(ews::PATH);
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ews::CONTENT_TYPE));
        headers.insert(ACCEPT, HeaderValue::from_static("text/xml"));
        headers.insert(USER_AGENT, HeaderValue::from_static(OUR_NAME));
        if let Ok(host) = HeaderValue::from_str(host) {
            headers.insert(HOST, host);
        }
        if let Some(Ok(mut value)) = authorization.map(HeaderValue::from_str) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        request
    }
}

/// How a request may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// Harmless if executed twice: sent once more if a reused connection broke.
    Harmless,
    /// Only if it was certainly not executed.
    Harmful,
}

impl Repetition {
    /// Otherwise a second subscription could exist that is not known here.
    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::SubscribePush { .. }
            | Operation::SubscribeStreaming
            | Operation::SubscribePull { .. } => Self::Harmful,
            Operation::GetEvents { .. }
            | Operation::GetStreamingEvents { .. }
            | Operation::Unsubscribe { .. }
            | Operation::FindCalendarItems { .. }
            | Operation::GetUserAvailability { .. }
            | Operation::GetChangeStamp => Self::Harmless,
        }
    }
}

const OUR_NAME: &str = concat!("Tandem/", env!("CARGO_PKG_VERSION"));
