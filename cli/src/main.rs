//! `tandem NOUN VERB …`: certificates, configuration, completions and manual pages.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem_cli::io::run(std::env::args_os())
}
