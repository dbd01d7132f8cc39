//! `tandem-lb`: arguments → configuration → [`tandem_lb::app::run`] → exit status.

use std::process::ExitCode;

use tandem_lb::app;
use tandem_lb::config::Config;
use tandem_shared::io::process::{self, ExitStatus};
use tandem_shared::io::sip_tls::SipTls;
use tandem_shared::io::telemetry::init_logging;
use tandem_shared::io::tls::TlsError;

fn main() -> ExitCode {
    process::main("tandem-lb", Config::read, check, start)
}

/// The files that the configuration names.
fn check(config: &Config) -> Result<(), TlsError> {
    for tls in config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
    {
        SipTls::new(tls.clone())?;
    }
    match &config.cluster {
        Some(cluster) => cluster.section.check_certificate(cluster.member_id),
        None => Ok(()),
    }
}

fn start(config: Config) -> anyhow::Result<ExitStatus> {
    init_logging(&config.log)?;
    tokio::runtime::Runtime::new()?.block_on(app::run(config))
}
