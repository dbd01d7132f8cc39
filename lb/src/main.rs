//! `tandem-lb`: arguments → configuration → [`tandem_lb::app::run`] → exit status.

use std::process::ExitCode;

use tandem_lb::app;
use tandem_lb::config::Config;
use tandem_shared::io::process::{self, ExitStatus};
use tandem_shared::io::telemetry::init_logging;

fn main() -> ExitCode {
    process::main("tandem-lb", Config::read, start)
}

fn start(config: Config) -> anyhow::Result<ExitStatus> {
    init_logging(&config.log)?;
    tokio::runtime::Runtime::new()?.block_on(app::run(config))
}
