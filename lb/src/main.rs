//! `tandem-lb --config FILE [--check-config]`, and `tandem-lb certificate …` to ask a running front end.

use std::process::ExitCode;

use tandem_lb::app;
use tandem_lb::config::Config;
use tandem_lb::io::{command_line, named_files};
use tandem_runtime::io::process::{self, ExitStatus};
use tandem_runtime::io::telemetry::init_logging;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "certificate" || word == "certificates" => command_line::certificate(arguments),
        Some(_) | None => process::main("tandem-lb", Config::read, named_files::check, start),
    }
}

fn start(config: Config) -> anyhow::Result<ExitStatus> {
    init_logging(&config.log)?;
    tokio::runtime::Runtime::new()?.block_on(app::run(config))
}
