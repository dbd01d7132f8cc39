//! The files that `lb.toml` names, looked at before anything is started.

use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::io::tls::TlsError;

use crate::config::Config;

/// What `--check-config` checks beside the configuration itself: certificates, keys and authorities of listeners and member.
///
/// # Errors
/// The first of them that cannot be used.
pub fn check(config: &Config) -> Result<(), TlsError> {
    for tls in config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
    {
        SipTls::check(tls)?;
    }
    match &config.cluster {
        Some(cluster) => cluster.section.check_certificate(cluster.member_id),
        None => Ok(()),
    }
}
