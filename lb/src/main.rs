//! `tandem-lb --config FILE [--check-config]`, and `tandem-lb certificate …` to ask a running front end.

use std::process::ExitCode;

use tandem_lb::app;
use tandem_lb::config::Config;
use tandem_lb::io::command_line;
use tandem_runtime::io::process::{self, ExitStatus};
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::io::telemetry::init_logging;
use tandem_runtime::io::tls::TlsError;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "certificate" || word == "certificates" => command_line::certificate(arguments),
        Some(_) | None => process::main("tandem-lb", Config::read, check, start),
    }
}

/// Checks the certificates and keys that the configuration names.
fn check(config: &Config) -> Result<(), TlsError> {
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

fn start(config: Config) -> anyhow::Result<ExitStatus> {
    init_logging(&config.log)?;
    tokio::runtime::Runtime::new()?.block_on(app::run(config))
}
