//! Where the process listens that is asked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::ConfigError;

/// What was said of it: `--admin` and `--config`.
#[derive(Debug, Default)]
pub struct AdminPlace {
    pub admin: Option<SocketAddr>,
    pub config: Option<PathBuf>,
}

/// Why it is not known where to ask.
#[derive(Debug, Error)]
pub enum AdminPlaceError {
    #[error("--admin and --config contradict each other")]
    TwoPlaces,
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl AdminPlace {
    /// The address that was given; that of a configuration file, which `of_file` reads; or `default`.
    ///
    /// # Errors
    /// When both were given, or the file cannot be read.
    pub fn find(
        &self,
        default: SocketAddr,
        of_file: impl FnOnce(&Path) -> Result<SocketAddr, ConfigError>,
    ) -> Result<SocketAddr, AdminPlaceError> {
        match (self.admin, &self.config) {
            (Some(admin), None) => Ok(admin),
            (None, Some(file)) => Ok(of_file(file)?),
            (None, None) => Ok(default),
            (Some(_), Some(_)) => Err(AdminPlaceError::TwoPlaces),
        }
    }
}
