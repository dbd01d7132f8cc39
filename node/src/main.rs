//! `tandem-node --config FILE [--check-config]`, and `tandem-node exchange …` or `cluster …` to ask a running node.

use std::process::ExitCode;

use tandem_node::io::{command_line, named_files};
use tandem_node::{app, config};
use tandem_runtime::io::process;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "exchange" => command_line::exchange(arguments),
        Some(word) if word == "cluster" => command_line::cluster(arguments),
        Some(_) | None => process::main(
            "tandem-node",
            config::read_with_files,
            named_files::check,
            app::run,
        ),
    }
}
