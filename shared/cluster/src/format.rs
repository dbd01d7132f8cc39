//! The numbered formats of everything that members store or say, one per release.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A format of log records, snapshots, frames and commands. Numbered per release; between two commits of one release
/// nothing is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Format(pub u16);

/// The format of a state that names none.
impl Default for Format {
    fn default() -> Self {
        Self::RELEASE_0_1
    }
}

impl Format {
    /// Release 0.1. Read, and written until every member has run a later release for a while.
    pub const RELEASE_0_1: Self = Self(1);
    /// Release 0.2: proposals in an envelope, members described in the log.
    pub const RELEASE_0_2: Self = Self(2);
    /// The newest format that this program writes and reads.
    pub const NEWEST: Self = Self::RELEASE_0_2;

    /// The release that introduced the format, as far as this program knows it.
    #[must_use]
    pub fn release(self) -> String {
        match self {
            Self::RELEASE_0_1 => "0.1".to_owned(),
            Self::RELEASE_0_2 => "0.2".to_owned(),
            Self(number) => format!("with format {number}"),
        }
    }
}

/// `format 2 (release 0.2)`.
impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RELEASE_0_1 | Self::RELEASE_0_2 => {
                write!(formatter, "format {} (release {})", self.0, self.release())
            }
            Self(number) => write!(formatter, "format {number} (a later release)"),
        }
    }
}
