//! The table of services: one row says everything about a service but what is peculiar to its documents.
//!
//! The codec, the list of features, the order of intent and command, and what a successor makes of a repeated request
//! are read off the row. A new service of call control whose arguments have forms that stand here already needs its name in
//! [`Service`], its row, and nothing else; the tests go over every row.

use std::collections::BTreeSet;

use super::CstaErrorCode;
use super::event::EventKind;

/// A service of ECMA-269 that Tandem offers or uses, in the order of the schema's capability lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    GetCstaFeatures,
    RequestSystemStatus,
    SystemStatus,
    MonitorStart,
    MonitorStop,
    SnapshotCall,
    SnapshotDevice,
    AnswerCall,
    ClearConnection,
    MakeCall,
}

/// What holds of one service.
#[derive(Debug)]
pub struct ServiceRow {
    pub service: Service,
    /// The root element of the request; the positive answer adds `Response`. Also the label of metrics.
    pub name: &'static str,
    /// Its place in GetCSTAFeaturesResponse; `None`: not advertised.
    pub feature: Option<Feature>,
    pub route: Route,
    pub repetition: Repetition,
    pub parameters: Parameters,
    pub answer: Answer,
}

/// An element of the capability lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The list that the element stands in.
    pub list: &'static str,
    pub element: &'static str,
    /// An option of the element that is `true`.
    pub option: Option<&'static str>,
}

/// Who answers a client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Tandem alone.
    Tandem,
    /// A CTI manager: the session needs a connection in service.
    CtiManager,
    /// Nobody: the service is spoken between Tandem and CTI managers. A client gets `serviceNotSupported`.
    NotForClients,
}

/// What becomes of a request that comes again after its node was lost (ARCHITECTURE.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repetition {
    /// It is carried out again: it changes nothing, or sets what is set already.
    Allowed,
    /// It changes the PBX: its intent is committed before it is carried out, and it is never carried out twice. When
    /// the answer is not known, a snapshot of the device gives the evidence.
    Forbidden { intent: Intent, evidence: Evidence },
}

/// What is written into the log before the PBX is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// With the number that is called.
    MakeCall,
    /// With the call.
    AnswerCall,
    /// With the call.
    ClearConnection,
}

/// What a snapshot of the device shows when the command was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// An outgoing call that the client has not heard of.
    NewCall,
    /// The device takes part in the call.
    CallAnswered,
    /// The device takes no part in the call.
    CallGone,
}

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameters {
    RequestSystemStatus,
    GetCstaFeatures,
    SystemStatus,
    MonitorStart,
    MonitorStop,
    SnapshotDevice,
    SnapshotCall,
    /// These, in the order of the schema ([`super::CallRequest`]).
    Listed(&'static [Parameter]),
}

/// One argument of a request: its element, and what stands there.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    pub element: &'static str,
    pub kind: ParameterKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// The client's own device. Any other one is refused with this error.
    OwnDevice(CstaErrorCode),
    /// A call at the client's own device.
    OwnCall,
    /// A number to be dialled. What cannot be dialled is refused with this error.
    Number(CstaErrorCode),
    /// One of these words; the first one where the element is missing.
    Choice(&'static [&'static str]),
}

/// What a positive answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    /// The call that was made, in this element.
    NewCall(&'static str),
    SystemStatus,
    Features,
    MonitorCrossRefId,
    DeviceSnapshot,
    CallSnapshot,
}

impl Service {
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.service)
    }

    /// Those that GetCSTAFeaturesResponse lists, each with its place there.
    pub fn advertised() -> impl Iterator<Item = (Self, Feature)> {
        TABLE
            .iter()
            .filter_map(|row| row.feature.map(|feature| (row.service, feature)))
    }

    /// The service whose request has this root element.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|service| service.name() == name)
    }

    #[must_use]
    pub fn row(self) -> &'static ServiceRow {
        &TABLE[self as usize]
    }

    /// The root element of the request.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    #[must_use]
    pub fn changes_pbx(self) -> bool {
        match self.row().repetition {
            Repetition::Allowed => false,
            Repetition::Forbidden { .. } => true,
        }
    }
}

/// What GetCSTAFeaturesResponse advertises. Communicator shows a feature only if it is listed here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    pub services: BTreeSet<Service>,
    pub events: BTreeSet<EventKind>,
}

impl Features {
    /// Exactly what Tandem implements.
    #[must_use]
    pub fn implemented() -> Self {
        Self {
            services: Service::advertised().map(|(service, _)| service).collect(),
            events: EventKind::ALL.into(),
        }
    }
}

static TABLE: &[ServiceRow] = &[
    ServiceRow {
        service: Service::GetCstaFeatures,
        name: "GetCSTAFeatures",
        feature: feature("capExchangeServList", "getCSTAFeatures"),
        route: Route::Tandem,
        repetition: Repetition::Allowed,
        parameters: Parameters::GetCstaFeatures,
        answer: Answer::Features,
    },
    ServiceRow {
        service: Service::RequestSystemStatus,
        name: "RequestSystemStatus",
        feature: feature("systemStatServList", "requestSystemStatus"),
        route: Route::Tandem,
        repetition: Repetition::Allowed,
        parameters: Parameters::RequestSystemStatus,
        answer: Answer::SystemStatus,
    },
    ServiceRow {
        service: Service::SystemStatus,
        name: "SystemStatus",
        feature: None,
        route: Route::NotForClients,
        repetition: Repetition::Allowed,
        parameters: Parameters::SystemStatus,
        answer: Answer::Nothing,
    },
    ServiceRow {
        service: Service::MonitorStart,
        name: "MonitorStart",
        feature: with_option("monitoringServList", "monitorStart", "monitorObjectDevice"),
        route: Route::CtiManager,
        repetition: Repetition::Allowed,
        parameters: Parameters::MonitorStart,
        answer: Answer::MonitorCrossRefId,
    },
    ServiceRow {
        service: Service::MonitorStop,
        name: "MonitorStop",
        feature: feature("monitoringServList", "monitorStop"),
        route: Route::Tandem,
        repetition: Repetition::Allowed,
        parameters: Parameters::MonitorStop,
        answer: Answer::Nothing,
    },
    // ECMA-269 §17.1.1: who takes part in a call that a SnapshotDevice has shown.
    ServiceRow {
        service: Service::SnapshotCall,
        name: "SnapshotCall",
        feature: None,
        route: Route::NotForClients,
        repetition: Repetition::Allowed,
        parameters: Parameters::SnapshotCall,
        answer: Answer::CallSnapshot,
    },
    ServiceRow {
        service: Service::SnapshotDevice,
        name: "SnapshotDevice",
        feature: feature("snapshotServList", "snapshotDevice"),
        route: Route::CtiManager,
        repetition: Repetition::Allowed,
        parameters: Parameters::SnapshotDevice,
        answer: Answer::DeviceSnapshot,
    },
    ServiceRow {
        service: Service::AnswerCall,
        name: "AnswerCall",
        feature: feature("callControlServList", "answerCall"),
        route: Route::CtiManager,
        repetition: Repetition::Forbidden {
            intent: Intent::AnswerCall,
            evidence: Evidence::CallAnswered,
        },
        parameters: Parameters::Listed(&[Parameter {
            element: "callToBeAnswered",
            kind: ParameterKind::OwnCall,
        }]),
        answer: Answer::Nothing,
    },
    ServiceRow {
        service: Service::ClearConnection,
        name: "ClearConnection",
        feature: feature("callControlServList", "clearConnection"),
        route: Route::CtiManager,
        repetition: Repetition::Forbidden {
            intent: Intent::ClearConnection,
            evidence: Evidence::CallGone,
        },
        parameters: Parameters::Listed(&[Parameter {
            element: "connectionToBeCleared",
            kind: ParameterKind::OwnCall,
        }]),
        answer: Answer::Nothing,
    },
    ServiceRow {
        service: Service::MakeCall,
        name: "MakeCall",
        feature: with_option("callControlServList", "makeCall", "autoOriginateDoNotPrompt"),
        route: Route::CtiManager,
        repetition: Repetition::Forbidden {
            intent: Intent::MakeCall,
            evidence: Evidence::NewCall,
        },
        parameters: Parameters::Listed(&[
            Parameter {
                element: "callingDevice",
                kind: ParameterKind::OwnDevice(CstaErrorCode::INVALID_CALLING_DEVICE),
            },
            Parameter {
                element: "calledDirectoryNumber",
                kind: ParameterKind::Number(CstaErrorCode::INVALID_CALLED_DEVICE),
            },
            // Whether the phone rings the caller before it dials.
            Parameter {
                element: "autoOriginate",
                kind: ParameterKind::Choice(&["doNotPrompt", "prompt"]),
            },
        ]),
        answer: Answer::NewCall("callingDevice"),
    },
];

// A row is found by the number of its service.
const _: () = {
    let mut number = 0;
    while number < TABLE.len() {
        assert!(TABLE[number].service as usize == number);
        number += 1;
    }
};

const fn feature(list: &'static str, element: &'static str) -> Option<Feature> {
    Some(Feature {
        list,
        element,
        option: None,
    })
}

const fn with_option(list: &'static str, element: &'static str, option: &'static str) -> Option<Feature> {
    Some(Feature {
        list,
        element,
        option: Some(option),
    })
}
