//! CSTAErrorCode: why a CSTA request was refused.

use std::borrow::Cow;
use std::fmt;

/// The root CSTAErrorCode: one category and a code word of it, spelled as edition 3 spells them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CstaErrorCode {
    pub category: ErrorCategory,
    /// The code word; empty in the category `unspecified`.
    pub value: Cow<'static, str>,
}

impl CstaErrorCode {
    pub const INVALID_DEVICE: Self = Self::of(ErrorCategory::Operation, "invalidDeviceID");
    pub const INVALID_CALLING_DEVICE: Self = Self::of(ErrorCategory::Operation, "invalidCallingDeviceID");
    pub const INVALID_CALLED_DEVICE: Self = Self::of(ErrorCategory::Operation, "invalidCalledDeviceID");
    pub const INVALID_MONITOR_OBJECT: Self = Self::of(ErrorCategory::Operation, "invalidMonitorObject");
    pub const INVALID_MONITOR_CROSS_REF_ID: Self =
        Self::of(ErrorCategory::Operation, "invalidMonitorCrossRefID");
    pub const INVALID_CONNECTION: Self = Self::of(ErrorCategory::Operation, "invalidConnectionID");
    pub const INVALID_PARAMETER: Self = Self::of(ErrorCategory::Operation, "invalidParameterValue");
    pub const PRIVILEGE_VIOLATION: Self =
        Self::of(ErrorCategory::Operation, "privilegeViolationSpecifiedDevice");
    pub const SERVICE_NOT_SUPPORTED: Self = Self::of(ErrorCategory::Operation, "serviceNotSupported");
    pub const INVALID_CONNECTION_STATE: Self =
        Self::of(ErrorCategory::StateIncompatibility, "invalidConnectionState");
    pub const NO_CALL_TO_ANSWER: Self = Self::of(ErrorCategory::StateIncompatibility, "noCallToAnswer");
    pub const NO_CONNECTION_TO_CLEAR: Self =
        Self::of(ErrorCategory::StateIncompatibility, "noConnectionToClear");
    pub const DEVICE_OUT_OF_SERVICE: Self =
        Self::of(ErrorCategory::SystemResourceAvailability, "deviceOutOfService");
    pub const RESOURCE_OUT_OF_SERVICE: Self =
        Self::of(ErrorCategory::SystemResourceAvailability, "resourceOutOfService");
    pub const RESOURCE_BUSY: Self = Self::of(ErrorCategory::SystemResourceAvailability, "resourceBusy");
    pub const RESOURCE_LIMIT_EXCEEDED: Self =
        Self::of(ErrorCategory::SystemResourceAvailability, "resourceLimitExceeded");
    pub const OUTSTANDING_REQUEST_LIMIT_EXCEEDED: Self = Self::of(
        ErrorCategory::SubscribedResourceAvailability,
        "outstandingReqLimitExceeded",
    );
    pub const PERFORMANCE_LIMIT_EXCEEDED: Self =
        Self::of(ErrorCategory::PerformanceManagement, "performanceLimitExceeded");
    pub const UNSPECIFIED: Self = Self::of(ErrorCategory::Unspecified, "");

    #[must_use]
    pub const fn of(category: ErrorCategory, value: &'static str) -> Self {
        Self {
            category,
            value: Cow::Borrowed(value),
        }
    }
}

impl fmt::Display for CstaErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.category.element(), self.value)
    }
}

/// The child of CSTAErrorCode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCategory {
    Operation,
    Security,
    StateIncompatibility,
    SystemResourceAvailability,
    SubscribedResourceAvailability,
    PerformanceManagement,
    PrivateData,
    Unspecified,
    PrivateErrorCode,
}

impl ErrorCategory {
    pub const ALL: [Self; 9] = [
        Self::Operation,
        Self::Security,
        Self::StateIncompatibility,
        Self::SystemResourceAvailability,
        Self::SubscribedResourceAvailability,
        Self::PerformanceManagement,
        Self::PrivateData,
        Self::Unspecified,
        Self::PrivateErrorCode,
    ];

    #[must_use]
    pub fn element(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Security => "security",
            Self::StateIncompatibility => "stateIncompatibility",
            // The schema's own spelling, with an i.
            Self::SystemResourceAvailability => "systemResourceAvailibility",
            Self::SubscribedResourceAvailability => "subscribedResourceAvailability",
            Self::PerformanceManagement => "performanceManagement",
            Self::PrivateData => "privateData",
            Self::Unspecified => "unspecified",
            Self::PrivateErrorCode => "privateErrorCode",
        }
    }

    /// Also takes `systemResourceAvailability`, which peers write who correct the schema's spelling.
    #[must_use]
    pub fn from_element(name: &str) -> Option<Self> {
        if name == "systemResourceAvailability" {
            return Some(Self::SystemResourceAvailability);
        }
        Self::ALL.into_iter().find(|category| category.element() == name)
    }
}
