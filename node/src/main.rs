//! `tandem-node --config FILE [--check-config]`.

use std::process::ExitCode;

use tandem_node::{app, config};
use tandem_shared::io::process;

fn main() -> ExitCode {
    process::main("tandem-node", config::read_with_files, app::run)
}
