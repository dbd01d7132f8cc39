//! ECMA-354 application session: the log-in of a CTI link, for CTI managers that want one.

/// One message of the application session, ours or the CTI manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationSession {
    Start {
        application_id: String,
        requested_duration_secs: u32,
    },
    Started {
        session_id: String,
        actual_duration_secs: u32,
    },
    StartRefused {
        reason: String,
    },
    ResetTimer {
        session_id: String,
        requested_duration_secs: u32,
    },
    TimerReset {
        actual_duration_secs: u32,
    },
    TimerResetRefused {
        reason: String,
    },
    Stop {
        session_id: String,
    },
    Stopped,
    StopRefused,
    /// The CTI manager ended the session.
    Terminated,
}

impl ApplicationSession {
    /// The root element.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "StartApplicationSession",
            Self::Started { .. } => "StartApplicationSessionPosResponse",
            Self::StartRefused { .. } => "StartApplicationSessionNegResponse",
            Self::ResetTimer { .. } => "ResetApplicationSessionTimer",
            Self::TimerReset { .. } => "ResetApplicationSessionTimerPosResponse",
            Self::TimerResetRefused { .. } => "ResetApplicationSessionTimerNegResponse",
            Self::Stop { .. } => "StopApplicationSession",
            Self::Stopped => "StopApplicationSessionPosResponse",
            Self::StopRefused => "StopApplicationSessionNegResponse",
            Self::Terminated => "ApplicationSessionTerminated",
        }
    }
}
