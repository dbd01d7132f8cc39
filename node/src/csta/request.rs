//! Requests, by the group of services that they belong to.

use super::service::{Parameter, ParameterKind, Parameters, Service};
use super::{ConnectionIdentifier, SystemStatus};

/// A CSTA request, of a client or of a CTI manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    System(SystemRequest),
    Monitor(MonitorRequest),
    Snapshot(SnapshotRequest),
    Call(CallRequest),
    /// Well formed, but not a service of ours: answered `serviceNotSupported`.
    Unsupported {
        service: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemRequest {
    /// `line` is Microsoft's `lcs:line` private data, with which a client opens its session.
    RequestSystemStatus {
        line: Option<String>,
    },
    GetCstaFeatures {
        line: Option<String>,
    },
    /// A CTI manager tells how it is; it wants an answer.
    SystemStatus {
        status: SystemStatus,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorRequest {
    Start { device: String },
    Stop { cross_ref_id: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRequest {
    Device {
        device: String,
    },
    /// Of a CTI manager: who takes part in a call that a snapshot of the device has shown.
    Call {
        call: ConnectionIdentifier,
    },
}

/// A request whose arguments the table of services lists. It always has one of each, in the order of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    service: Service,
    arguments: Vec<Argument>,
}

/// What stands for a [`Parameter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    Device(String),
    Call(ConnectionIdentifier),
    Number(String),
    Choice(&'static str),
}

impl Request {
    /// `None` when it is not a service of ours.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        Some(match self {
            Self::System(SystemRequest::RequestSystemStatus { .. }) => Service::RequestSystemStatus,
            Self::System(SystemRequest::GetCstaFeatures { .. }) => Service::GetCstaFeatures,
            Self::System(SystemRequest::SystemStatus { .. }) => Service::SystemStatus,
            Self::Monitor(MonitorRequest::Start { .. }) => Service::MonitorStart,
            Self::Monitor(MonitorRequest::Stop { .. }) => Service::MonitorStop,
            Self::Snapshot(SnapshotRequest::Device { .. }) => Service::SnapshotDevice,
            Self::Snapshot(SnapshotRequest::Call { .. }) => Service::SnapshotCall,
            Self::Call(call) => call.service,
            Self::Unsupported { .. } => return None,
        })
    }

    /// The root element's name, or `"Unsupported"`: of a fixed set, so it may label a metric.
    #[must_use]
    pub fn label(&self) -> &'static str {
        label(self.service())
    }
}

/// What a metric calls the service of a request; `None` is one that is not ours.
#[must_use]
pub fn label(service: Option<Service>) -> &'static str {
    service.map_or("Unsupported", Service::name)
}

impl CallRequest {
    /// Reads each argument that the row of `service` lists.
    pub(super) fn read<E>(
        service: Service,
        parameters: &'static [Parameter],
        read: impl Fn(&'static Parameter) -> Result<Argument, E>,
    ) -> Result<Self, E> {
        let arguments = parameters.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { service, arguments })
    }

    #[must_use]
    pub fn service(&self) -> Service {
        self.service
    }

    /// Each argument, with what the table says of it.
    pub fn arguments(&self) -> impl Iterator<Item = (&'static Parameter, &Argument)> {
        let parameters = match self.service.row().parameters {
            Parameters::Listed(parameters) => parameters,
            Parameters::RequestSystemStatus
            | Parameters::GetCstaFeatures
            | Parameters::SystemStatus
            | Parameters::MonitorStart
            | Parameters::MonitorStop
            | Parameters::SnapshotDevice
            | Parameters::SnapshotCall => &[],
        };
        parameters.iter().zip(&self.arguments)
    }

    /// The number that is to be dialled, where there is one.
    #[must_use]
    pub fn number(&self) -> Option<&str> {
        self.arguments.iter().find_map(|argument| match argument {
            Argument::Number(number) => Some(number.as_str()),
            Argument::Device(_) | Argument::Call(_) | Argument::Choice(_) => None,
        })
    }

    /// The call that the request is about, where there is one.
    #[must_use]
    pub fn call(&self) -> Option<&ConnectionIdentifier> {
        self.arguments.iter().find_map(|argument| match argument {
            Argument::Call(call) => Some(call),
            Argument::Device(_) | Argument::Number(_) | Argument::Choice(_) => None,
        })
    }

    /// The same request in other terms.
    #[must_use]
    pub fn map(&self, argument: impl Fn(&Argument) -> Argument) -> Self {
        Self {
            service: self.service,
            arguments: self.arguments.iter().map(argument).collect(),
        }
    }
}

impl ParameterKind {
    #[cfg(test)]
    fn fits(&self, argument: &Argument) -> bool {
        match (self, argument) {
            (Self::OwnDevice(_), Argument::Device(_))
            | (Self::OwnCall, Argument::Call(_))
            | (Self::Number(_), Argument::Number(_)) => true,
            (Self::Choice(words), Argument::Choice(word)) => words.contains(word),
            (Self::OwnDevice(_) | Self::OwnCall | Self::Number(_) | Self::Choice(_), _) => false,
        }
    }
}

/// How tests ask.
#[cfg(test)]
impl CallRequest {
    pub(crate) fn of(service: Service, arguments: Vec<Argument>) -> Request {
        let request = Self { service, arguments };
        let fits = request
            .arguments()
            .all(|(parameter, argument)| parameter.kind.fits(argument));
        assert!(
            fits && request.arguments().count() == request.arguments.len(),
            "{request:?}"
        );
        Request::Call(request)
    }

    pub(crate) fn make_call(calling_device: &str, called_directory_number: &str) -> Request {
        let arguments = vec![
            Argument::Device(calling_device.to_owned()),
            Argument::Number(called_directory_number.to_owned()),
            Argument::Choice("doNotPrompt"),
        ];
        Self::of(Service::MakeCall, arguments)
    }

    pub(crate) fn answer_call(call: ConnectionIdentifier) -> Request {
        Self::of(Service::AnswerCall, vec![Argument::Call(call)])
    }
}
