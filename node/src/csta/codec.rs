//! CSTA documents ↔ types. Reading is lenient about what peers disagree on: any prefix, any or no namespace
//! (editions 3 to 6), unknown elements skipped, elements in any order. Writing is edition 3 to the letter.

use thiserror::Error;

use super::event::{Event, EventKind, Parties};
use super::parts::{
    CROSS_REF_ID, SYSTEM_STATUS, argument, cause, connection, connection_state, device, features,
    last_redirection, line, missing, monitored_device, seconds, session_error, snapshot, snapshot_object,
    system_status, text, write_argument, write_connection, write_device, write_features,
    write_last_redirection, write_line, write_snapshot,
};
use super::request::{CallRequest, MonitorRequest, Request, SnapshotRequest, SystemRequest};
use super::response::Response;
use super::service::{Answer, Parameters, Service};
use super::{ApplicationSession, CstaErrorCode, CstaMessage, ErrorCategory};
use tandem_xml::{Element, Limits, Writer, XmlError, shorten};

/// What is wrong with a document. Always its sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error(transparent)]
    Xml(#[from] XmlError),
    #[error("{document} lacks {element}")]
    Missing { document: String, element: &'static str },
    #[error("{element} cannot be \"{value}\"")]
    InvalidValue { element: &'static str, value: String },
}

impl DecodeError {
    /// For metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Xml(error) => error.label(),
            Self::Missing { .. } => "element_missing",
            Self::InvalidValue { .. } => "invalid_value",
        }
    }
}

/// Reads one CSTA document of at most 65,527 bytes.
pub fn decode(bytes: &[u8]) -> Result<CstaMessage, DecodeError> {
    let root = Element::parse(bytes, LIMITS)?;
    if root.name == "CSTAErrorCode" {
        return decode_error_code(&root).map(CstaMessage::Error);
    }
    if let Some(kind) = EventKind::from_name(root.name) {
        return decode_event(kind, &root).map(CstaMessage::Event);
    }
    if let Some(message) = decode_application_session(&root)? {
        return Ok(CstaMessage::ApplicationSession(message));
    }
    if let Some(service) = root.name.strip_suffix("Response") {
        return decode_response(service, &root);
    }
    if root.name.ends_with("Event") {
        return Ok(CstaMessage::OtherEvent {
            name: shorten(root.name).to_owned(),
            monitor_cross_ref_id: root.child_text(CROSS_REF_ID).map(str::to_owned),
        });
    }
    decode_request(&root).map(CstaMessage::Request)
}

impl CstaMessage {
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Request(request) => request.encode(),
            Self::Response(response) => response.encode(),
            Self::Error(error) => error.encode(),
            Self::Event(event) => event.encode(),
            Self::OtherEvent {
                name,
                monitor_cross_ref_id,
            } => document(name, |writer| {
                if let Some(cross_ref_id) = monitor_cross_ref_id {
                    writer.leaf(CROSS_REF_ID, cross_ref_id);
                }
            }),
            Self::OtherResponse { name } => document(name, |_| {}),
            Self::ApplicationSession(message) => message.encode(),
        }
    }
}

fn decode_request(root: &Element<'_>) -> Result<Request, DecodeError> {
    let Some(service) = Service::named(root.name) else {
        return Ok(Request::Unsupported {
            service: shorten(root.name).to_owned(),
        });
    };
    Ok(match service.row().parameters {
        Parameters::RequestSystemStatus => {
            Request::System(SystemRequest::RequestSystemStatus { line: line(root) })
        }
        Parameters::GetCstaFeatures => Request::System(SystemRequest::GetCstaFeatures { line: line(root) }),
        Parameters::SystemStatus => Request::System(SystemRequest::SystemStatus {
            status: system_status(root)?,
        }),
        Parameters::MonitorStart => Request::Monitor(MonitorRequest::Start {
            device: monitored_device(root)?,
        }),
        Parameters::MonitorStop => Request::Monitor(MonitorRequest::Stop {
            cross_ref_id: text(root, CROSS_REF_ID)?,
        }),
        Parameters::SnapshotDevice => Request::Snapshot(SnapshotRequest::Device {
            device: snapshot_object(root)?,
        }),
        Parameters::SnapshotCall => Request::Snapshot(SnapshotRequest::Call {
            call: connection(root, SNAPSHOT_OBJECT)?,
        }),
        Parameters::Listed(parameters) => Request::Call(CallRequest::read(service, parameters, |each| {
            argument(root, each)
        })?),
    })
}

impl Request {
    #[must_use]
    pub fn encode(&self) -> String {
        let root = if let Self::Unsupported { service } = self {
            service
        } else {
            self.label()
        };
        document(root, |writer| self.write_content(writer))
    }

    fn write_content(&self, writer: &mut Writer) {
        match self {
            Self::System(
                SystemRequest::RequestSystemStatus { line } | SystemRequest::GetCstaFeatures { line },
            ) => {
                if let Some(line) = line {
                    write_line(writer, line);
                }
            }
            Self::System(SystemRequest::SystemStatus { status }) => {
                writer.leaf(SYSTEM_STATUS, status.word());
            }
            Self::Monitor(MonitorRequest::Start { device }) => {
                writer.element("monitorObject", |writer| writer.leaf("deviceObject", device));
            }
            Self::Monitor(MonitorRequest::Stop { cross_ref_id }) => writer.leaf(CROSS_REF_ID, cross_ref_id),
            Self::Snapshot(SnapshotRequest::Device { device }) => writer.leaf(SNAPSHOT_OBJECT, device),
            Self::Snapshot(SnapshotRequest::Call { call }) => {
                write_connection(writer, SNAPSHOT_OBJECT, call);
            }
            Self::Call(call) => call
                .arguments()
                .for_each(|(parameter, argument)| write_argument(writer, parameter.element, argument)),
            Self::Unsupported { .. } => {}
        }
    }
}

fn decode_response(name: &str, root: &Element<'_>) -> Result<CstaMessage, DecodeError> {
    let Some(service) = Service::named(name) else {
        return Ok(CstaMessage::OtherResponse {
            name: shorten(root.name).to_owned(),
        });
    };
    Ok(CstaMessage::Response(match service.row().answer {
        Answer::Nothing => Response::Done(service),
        Answer::NewCall(element) => Response::NewCall {
            service,
            call: connection(root, element)?,
        },
        Answer::SystemStatus => Response::RequestSystemStatus {
            status: system_status(root)?,
        },
        Answer::Features => Response::GetCstaFeatures(features(root)),
        Answer::MonitorCrossRefId => Response::MonitorStart {
            cross_ref_id: text(root, CROSS_REF_ID)?,
        },
        Answer::DeviceSnapshot => Response::SnapshotDevice {
            connections: snapshot(root)?,
        },
        Answer::CallSnapshot => Response::SnapshotCall {
            calling: device(root, "callingDevice"),
            called: device(root, "calledDevice"),
        },
    }))
}

impl Response {
    #[must_use]
    pub fn encode(&self) -> String {
        let root = format!("{}Response", self.service().name());
        document(&root, |writer| match self {
            Self::RequestSystemStatus { status } => writer.leaf(SYSTEM_STATUS, status.word()),
            Self::GetCstaFeatures(features) => write_features(writer, features),
            Self::MonitorStart { cross_ref_id } => writer.leaf(CROSS_REF_ID, cross_ref_id),
            Self::SnapshotDevice { connections } => write_snapshot(writer, connections),
            Self::SnapshotCall { calling, called } => {
                writer.element("crossRefIDorSnapshotData", |writer| writer.empty("snapshotData"));
                write_device(writer, "callingDevice", calling.as_ref());
                write_device(writer, "calledDevice", called.as_ref());
            }
            Self::NewCall { service, call } => {
                if let Answer::NewCall(element) = service.row().answer {
                    write_connection(writer, element, call);
                }
            }
            Self::Done(_) => {}
        })
    }
}

fn decode_error_code(root: &Element<'_>) -> Result<CstaErrorCode, DecodeError> {
    root.children
        .iter()
        .find_map(|child| {
            let category = ErrorCategory::from_element(child.name)?;
            Some(CstaErrorCode {
                category,
                value: shorten(&child.text).to_owned().into(),
            })
        })
        .ok_or_else(|| missing(root, "an error category"))
}

impl CstaErrorCode {
    #[must_use]
    pub fn encode(&self) -> String {
        document("CSTAErrorCode", |writer| {
            writer.leaf(self.category.element(), &self.value)
        })
    }
}

fn decode_event(kind: EventKind, root: &Element<'_>) -> Result<Event, DecodeError> {
    let shape = kind.shape();
    Ok(Event {
        kind,
        monitor_cross_ref_id: text(root, CROSS_REF_ID)?,
        connection: connection(root, shape.connection)?,
        subject: shape.subject.and_then(|name| device(root, name)),
        new_destination: (kind == EventKind::Diverted)
            .then(|| device(root, "newDestination"))
            .flatten(),
        calling: (shape.parties != Parties::None)
            .then(|| device(root, "callingDevice"))
            .flatten(),
        called: (shape.parties != Parties::None)
            .then(|| device(root, "calledDevice"))
            .flatten(),
        last_redirection: (shape.parties == Parties::All)
            .then(|| last_redirection(root))
            .flatten(),
        local_connection_info: root
            .child_text("localConnectionInfo")
            .map(|word| connection_state("localConnectionInfo", word))
            .transpose()?,
        cause: cause(root)?,
    })
}

impl Event {
    #[must_use]
    pub fn encode(&self) -> String {
        let shape = self.kind.shape();
        document(shape.root, |writer| {
            writer.leaf(CROSS_REF_ID, &self.monitor_cross_ref_id);
            write_connection(writer, shape.connection, &self.connection);
            if let Some(name) = shape.subject {
                write_device(writer, name, self.subject.as_ref());
            }
            if self.kind == EventKind::Diverted {
                write_device(writer, "newDestination", self.new_destination.as_ref());
            }
            if shape.parties != Parties::None {
                write_device(writer, "callingDevice", self.calling.as_ref());
                write_device(writer, "calledDevice", self.called.as_ref());
            }
            if shape.parties == Parties::All {
                write_last_redirection(writer, self.last_redirection.as_ref());
            }
            if let Some(state) = self.local_connection_info {
                writer.leaf("localConnectionInfo", state.word());
            }
            writer.leaf("cause", self.cause.word());
        })
    }
}

fn decode_application_session(root: &Element<'_>) -> Result<Option<ApplicationSession>, DecodeError> {
    Ok(Some(match root.name {
        "StartApplicationSession" => ApplicationSession::Start {
            application_id: root
                .descendant(&["applicationInfo", "applicationID"])
                .map(|element| element.text.to_string())
                .ok_or_else(|| missing(root, "applicationID"))?,
            requested_duration_secs: seconds(root, "requestedSessionDuration")?,
        },
        "StartApplicationSessionPosResponse" => ApplicationSession::Started {
            session_id: text(root, "sessionID")?,
            actual_duration_secs: seconds(root, "actualSessionDuration")?,
        },
        "StartApplicationSessionNegResponse" => ApplicationSession::StartRefused {
            reason: session_error(root),
        },
        "ResetApplicationSessionTimer" => ApplicationSession::ResetTimer {
            session_id: text(root, "sessionID")?,
            requested_duration_secs: seconds(root, "requestedSessionDuration")?,
        },
        "ResetApplicationSessionTimerPosResponse" => ApplicationSession::TimerReset {
            actual_duration_secs: seconds(root, "actualSessionDuration")?,
        },
        "ResetApplicationSessionTimerNegResponse" => ApplicationSession::TimerResetRefused {
            reason: session_error(root),
        },
        "StopApplicationSession" => ApplicationSession::Stop {
            session_id: text(root, "sessionID")?,
        },
        "StopApplicationSessionPosResponse" => ApplicationSession::Stopped,
        "StopApplicationSessionNegResponse" => ApplicationSession::StopRefused,
        "ApplicationSessionTerminated" => ApplicationSession::Terminated,
        _ => return Ok(None),
    }))
}

impl ApplicationSession {
    #[must_use]
    pub fn encode(&self) -> String {
        Writer::document(self.name(), SESSION_NAMESPACE, |writer| match self {
            Self::Start {
                application_id,
                requested_duration_secs,
            } => {
                writer.element("applicationInfo", |writer| {
                    writer.leaf("applicationID", application_id)
                });
                writer.element("requestedProtocolVersions", |writer| {
                    writer.leaf("protocolVersion", NAMESPACE)
                });
                writer.leaf("requestedSessionDuration", &requested_duration_secs.to_string());
            }
            Self::Started {
                session_id,
                actual_duration_secs,
            } => {
                writer.leaf("sessionID", session_id);
                writer.leaf("actualProtocolVersion", NAMESPACE);
                writer.leaf("actualSessionDuration", &actual_duration_secs.to_string());
            }
            Self::StartRefused { reason } | Self::TimerResetRefused { reason } => {
                writer.element("errorCode", |writer| writer.leaf("definedError", reason));
            }
            Self::ResetTimer {
                session_id,
                requested_duration_secs,
            } => {
                writer.leaf("sessionID", session_id);
                writer.leaf("requestedSessionDuration", &requested_duration_secs.to_string());
            }
            Self::TimerReset { actual_duration_secs } => {
                writer.leaf("actualSessionDuration", &actual_duration_secs.to_string());
            }
            Self::Stop { session_id } => {
                writer.leaf("sessionID", session_id);
                writer.element("sessionEndReason", |writer| {
                    writer.leaf("appEndReason", "shutdown")
                });
            }
            Self::Stopped | Self::StopRefused | Self::Terminated => {}
        })
    }
}

fn document(root: &str, content: impl FnOnce(&mut Writer)) -> String {
    Writer::document(root, NAMESPACE, content)
}

const SNAPSHOT_OBJECT: &str = "snapshotObject";
const NAMESPACE: &str = "http://www.ecma-international.org/standards/ecma-323/csta/ed3";
const SESSION_NAMESPACE: &str = "http://www.ecma-international.org/standards/ecma-354/appl_session";
/// The size is what fits one frame of ECMA-323 Annex J after its header; a SIP body may be no larger.
const LIMITS: Limits = Limits {
    document_bytes_max: 65_527,
    depth_max: 32,
    elements_max: 4096,
};
