//! Positive answers. The negative one is [`super::CstaErrorCode`] for every service.

use super::event::Device;
use super::service::{Features, Service};
use super::{ConnectionIdentifier, LocalConnectionState, SystemStatus};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    RequestSystemStatus {
        status: SystemStatus,
    },
    GetCstaFeatures(Features),
    MonitorStart {
        cross_ref_id: String,
    },
    SnapshotDevice {
        connections: Vec<SnapshotConnection>,
    },
    /// ECMA-269 §17.1.1. Absent parties are those that the CTI manager does not know, or does not tell.
    SnapshotCall {
        calling: Option<Device>,
        called: Option<Device>,
    },
    /// A call was made by this service.
    NewCall {
        service: Service,
        call: ConnectionIdentifier,
    },
    /// This service was carried out, and there is nothing more to say.
    Done(Service),
}

/// One call at the device of a SnapshotDevice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConnection {
    pub connection: ConnectionIdentifier,
    /// compoundCallState: the device's own connection first, then those of the other parties. Empty when the
    /// CTI manager does not know.
    pub states: Vec<LocalConnectionState>,
}

impl Response {
    /// The service whose request it answers.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Self::RequestSystemStatus { .. } => Service::RequestSystemStatus,
            Self::GetCstaFeatures(_) => Service::GetCstaFeatures,
            Self::MonitorStart { .. } => Service::MonitorStart,
            Self::SnapshotDevice { .. } => Service::SnapshotDevice,
            Self::SnapshotCall { .. } => Service::SnapshotCall,
            Self::NewCall { service, .. } | Self::Done(service) => *service,
        }
    }
}
