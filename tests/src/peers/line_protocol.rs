//! What the simulated PBX and its CTI managers say to each other: one JSON document a line.

use serde::{Deserialize, Serialize};

/// A call, as the PBX numbers it: the same number towards every CTI manager.
pub type CallId = String;

/// From a CTI manager to the PBX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromManager {
    /// The first line on a connection.
    Hello {
        name: String,
    },
    Request {
        id: u64,
        request: PbxRequest,
    },
    /// The manager caught its client breaking the protocol.
    Violation {
        what: String,
    },
}

/// From the PBX to a CTI manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToManager {
    Answer {
        id: u64,
        answer: Result<PbxAnswer, Fault>,
    },
    Event(PbxEvent),
}

/// What a manager may ask of the PBX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PbxRequest {
    MonitorStart { device: String },
    MonitorStop { device: String },
    Snapshot { device: String },
    MakeCall { device: String, called: String },
    AnswerCall { device: String, call: CallId },
    ClearConnection { device: String, call: CallId },
}

/// The good answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PbxAnswer {
    Done,
    CallMade { call: CallId },
    Snapshot { calls: Vec<SnapshotCall> },
}

/// One call at a device, and the state of its two ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCall {
    pub call: CallId,
    pub own: LegState,
    pub far: LegState,
    pub calling: String,
    pub called: String,
}

/// The bad answers; each is one CSTA error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    UnknownDevice,
    UnknownCall,
    WrongState,
}

/// One end of a call (ECMA-269 §6.1.5, connection state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LegState {
    Null,
    Alerting,
    Connected,
}

/// What happened to a call, as seen from `device`, which names a phone in the words of the monitor's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PbxEvent {
    pub device: String,
    pub call: CallId,
    pub kind: PbxEventKind,
    pub calling: String,
    pub called: String,
    /// Of the monitored device's own end, afterwards.
    pub own: LegState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PbxEventKind {
    Originated,
    Delivered,
    Established,
    /// `by` hung up.
    Cleared {
        by: String,
    },
}
