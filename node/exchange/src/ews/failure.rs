//! Failures of an operation, and the class of each (docs/spec/ews.md §1.7, §1.8).

use std::time::Duration;

use thiserror::Error;

/// An EWS code as the server wrote it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResponseCode(pub String);

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// An EWS code, in a fault or in a response message.
    #[error("{}: {message}", .code.0)]
    Response {
        code: ResponseCode,
        message: String,
        /// `BackOffMilliseconds`; may be zero.
        back_off: Option<Duration>,
        /// The right address according to `ErrorNonPrimarySmtpAddress`.
        primary_address: Option<String>,
        /// The code of an inner error, as `ErrorServerBusy` inside `ErrorInternalServerError`.
        inner: Option<ResponseCode>,
    },
    /// An HTTP status without anything more specific in the body.
    #[error("HTTP status {status}")]
    Http {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// 401 after a completed handshake, or no token was issued.
    #[error("the account was refused: {0}")]
    Unauthorized(String),
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// Larger than the configured bound.
    #[error("the answer is too large")]
    TooLarge,
    #[error("connecting failed: {0}")]
    Unreachable(String),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("no answer in time")]
    TimedOut,
}

/// The row of the table in docs/spec/ews.md §1.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The subscription is gone: subscribe again without the old watermark, then read again.
    Lost,
    /// Another node holds the subscription: yield if the epoch has changed, otherwise subscribe again.
    OtherOwner,
    /// Try again with back-off; another CAS after the second failure.
    Moved,
    /// The mailbox does not exist: not the fault of a CAS, slow retry.
    Gone,
    /// Adopt `primary_address` and try once more.
    Identity,
    /// Never a reason to move a user: fewer requests to this CAS, and later.
    Throttled,
    /// Three tries at the same CAS, then it counts against the CAS.
    Transient,
    /// All traffic with this credential stops; one probe in 60 s.
    Credential,
    /// This CAS denies impersonation: another one, once.
    RightsOfServer,
    /// Impersonation of this user is denied: an alarm for the user, slow retry.
    RightsOfUser,
    /// `ErrorInvalidServerVersion`: one step down the ladder.
    Version,
    /// The window or the result was too large: ask for less.
    TooMuch,
    /// Our request is wrong: logged prominently.
    Request,
}
