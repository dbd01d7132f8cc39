//! A request as the routes of a binary get it, and the answers that they give.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// A request with its body, which is whole and within the bound of bodies.
#[derive(Debug, Clone)]
pub struct AdminRequest {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
}

impl AdminRequest {
    /// The body as JSON, or the answer that says what is wrong with it.
    ///
    /// # Errors
    /// A 400 when the body is not the JSON that `T` wants.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, AdminResponse> {
        serde_json::from_slice(&self.body)
            .map_err(|error| AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string()))
    }
}

#[derive(Debug)]
pub struct AdminResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: AdminBody,
}

#[derive(Debug)]
pub enum AdminBody {
    Whole(Bytes),
    /// Piece by piece as they come; over when the sender is dropped. When the client goes, the receiver does.
    Pieces(mpsc::Receiver<Bytes>),
}

impl<T: Into<Bytes>> From<T> for AdminBody {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
}

impl AdminResponse {
    #[must_use]
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status,
                content_type: JSON,
                body: body.into(),
            },
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    #[must_use]
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: text.into().into(),
        }
    }

    /// A body that is sent while it is made.
    #[must_use]
    pub fn pieces(content_type: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: AdminBody::Pieces(pieces),
        }
    }

    /// `{"error": message}`.
    #[must_use]
    pub fn error(status: StatusCode, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        Self {
            status,
            content_type: JSON,
            body: body.into(),
        }
    }

    #[must_use]
    pub fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "there is no such resource")
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "the resource does not take this method",
        )
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
