//! `cargo bench-calendar`: how quickly and how evenly calendars are followed, and what a death costs.
//!
//! The last line holds every figure as `name=value`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures")]

mod figures;
mod options;
mod processes;

use std::process::ExitCode;

use figures::Figures;
use options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::from_arguments() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}; --help lists the options");
            return ExitCode::from(64);
        }
    };
    let mut figures = Figures::default();
    let measured = processes::run(&options, &mut figures).await;
    if let Err(error) = &measured {
        eprintln!("\nThe benchmark failed: {error:#}");
    }
    println!("\n{figures}");
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
