//! Why a request is not carried out, in words for an administrator.

use tandem_cluster::Refusal;

/// A request that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub fault: Fault,
    pub message: String,
}

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request makes no sense.
    BadRequest,
    NotFound,
    /// It makes no sense now.
    Conflict,
    DiskNearlyFull,
    NotSupported,
}

impl Denied {
    #[must_use]
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { fault, message }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Fault::BadRequest, message)
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Fault::NotFound, message)
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        let (fault, message) = match refusal {
            Refusal::NoCas => (Fault::Conflict, "no gateway is eligible"),
            Refusal::LimitReached => (Fault::Conflict, "a limit is reached"),
            Refusal::UnknownCas => (Fault::NotFound, "there is no such gateway"),
            Refusal::UnknownSetting => (Fault::NotFound, "there is no such setting"),
            Refusal::ValueNotAccepted => (Fault::BadRequest, "the value is not accepted"),
            Refusal::UnknownSession => (Fault::NotFound, "there is no such session"),
            Refusal::UnknownNode => (Fault::NotFound, "there is no such node"),
            Refusal::StaleEpoch => (Fault::Conflict, "it has changed meanwhile"),
            Refusal::DiskNearlyFull => (Fault::DiskNearlyFull, "the leader's disk is nearly full"),
            Refusal::NotSupported => (Fault::NotSupported, "this release does not support it"),
        };
        Self::new(fault, message)
    }
}
