//! The files that `node.toml` names, looked at before anything is started.

use tandem_runtime::io::tls::TlsError;

use crate::config::Config;

/// What `--check-config` checks beside the configuration itself and its secrets: the certificate of this member.
///
/// # Errors
/// When it cannot be used, or other members would not accept it.
pub fn check(config: &Config) -> Result<(), TlsError> {
    config.cluster.check_certificate(config.id)
}
