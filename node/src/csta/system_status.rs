//! How a switching function is.

/// How a switching function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemStatus {
    Disabled,
    PartiallyDisabled,
    Enabled,
    Initializing,
    MessagesLost,
    Normal,
    OverloadImminent,
    OverloadReached,
    OverloadRelieved,
}

impl SystemStatus {
    pub const ALL: [Self; 9] = [
        Self::Disabled,
        Self::PartiallyDisabled,
        Self::Enabled,
        Self::Initializing,
        Self::MessagesLost,
        Self::Normal,
        Self::OverloadImminent,
        Self::OverloadReached,
        Self::OverloadRelieved,
    ];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::PartiallyDisabled => "partiallyDisabled",
            Self::Enabled => "enabled",
            Self::Initializing => "initializing",
            Self::MessagesLost => "messagesLost",
            Self::Normal => "normal",
            Self::OverloadImminent => "overloadImminent",
            Self::OverloadReached => "overloadReached",
            Self::OverloadRelieved => "overloadRelieved",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    /// Whether requests may be sent to a switching function in this state.
    #[must_use]
    pub fn is_usable(self) -> bool {
        match self {
            Self::Disabled | Self::Initializing => false,
            Self::PartiallyDisabled
            | Self::Enabled
            | Self::MessagesLost
            | Self::Normal
            | Self::OverloadImminent
            | Self::OverloadReached
            | Self::OverloadRelieved => true,
        }
    }
}
