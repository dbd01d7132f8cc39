//! One push callback: whether its token is valid, what it reports, and how it is answered.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prometheus::IntCounterVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use tandem_exchange::callback::CallbackKey;
use tandem_exchange::ews::{
    self, Failure, Notification, SubscriptionStatus, parse_callback, write_callback_answer,
};

/// A callback with a valid token.
#[derive(Debug)]
pub struct CallbackArrived {
    pub user: String,
    /// Of the callback URL: which attempt to subscribe this belongs to.
    pub attempt: u64,
    /// In the order sent. A failure says that the subscription is gone.
    pub notifications: Vec<Result<Notification, Failure>>,
    /// If dropped or not used in time, the answer is [`SubscriptionStatus::Ok`].
    pub verdict: oneshot::Sender<SubscriptionStatus>,
}

/// Answers callbacks on all connections.
#[derive(Debug)]
pub(super) struct CallbackService {
    pub(super) key: CallbackKey,
    pub(super) arrived: mpsc::Sender<CallbackArrived>,
    pub(super) body_bytes_max: usize,
    pub(super) body_timeout: Duration,
    pub(super) verdict_timeout: Duration,
    /// By answer.
    pub(super) counter: IntCounterVec,
}

impl CallbackService {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (label, response) = match self.take(request).await {
            Ok((label, status)) => (label, answered(status)),
            Err(refusal) => (refusal.label(), refused(refusal)),
        };
        self.counter.with_label_values(&[label]).inc();
        response
    }

    async fn take(&self, request: Request<Incoming>) -> Result<(&'static str, SubscriptionStatus), Refusal> {
        let named = self.key.verify(request.uri().path());
        let (user, attempt) = named.ok_or(Refusal::NotGenuine)?;
        if request.method() != Method::POST {
            return Err(Refusal::NotPost);
        }
        let body = self.read_body(request.into_body()).await?;
        let callback = parse_callback(&body).map_err(|failure| {
            warn!(user, %failure, "malformed push callback with a valid token");
            Refusal::Malformed
        })?;
        let (verdict, answer) = oneshot::channel();
        let arrived = CallbackArrived {
            user,
            attempt,
            notifications: callback.notifications,
            verdict,
        };
        self.hand_over(arrived, answer).await
    }

    async fn read_body(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let bytes_max = self.body_bytes_max;
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(Refusal::TooLarge);
        }
        match timeout(self.body_timeout, Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::BodyLate),
        }
    }

    /// Refuses what could not be handed over, so that the server retries; accepts the rest.
    async fn hand_over(
        &self,
        arrived: CallbackArrived,
        answer: oneshot::Receiver<SubscriptionStatus>,
    ) -> Result<(&'static str, SubscriptionStatus), Refusal> {
        let deadline = Instant::now() + self.verdict_timeout;
        match timeout_at(deadline, self.arrived.send(arrived)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Refusal::Overloaded),
        }
        Ok(match timeout_at(deadline, answer).await {
            Ok(Ok(SubscriptionStatus::Ok)) => ("ok", SubscriptionStatus::Ok),
            Ok(Ok(SubscriptionStatus::Unsubscribe)) => ("unsubscribe", SubscriptionStatus::Unsubscribe),
            Ok(Err(_)) | Err(_) => ("ok_without_verdict", SubscriptionStatus::Ok),
        })
    }
}

/// Why a callback is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotGenuine,
    NotPost,
    TooLarge,
    BodyLate,
    Malformed,
    /// It was not handled in time.
    Overloaded,
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::NotGenuine => "not_genuine",
            Self::NotPost => "not_post",
            Self::TooLarge => "too_large",
            Self::BodyLate => "body_late",
            Self::Malformed => "malformed",
            Self::Overloaded => "overloaded",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotGenuine => StatusCode::NOT_FOUND,
            Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn answered(status: SubscriptionStatus) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(write_callback_answer(status)));
    let content_type = HeaderValue::from_static(ews::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Gives no reason, and closes the connection.
fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = refusal.status();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}
