//! `cargo bench-calendar`: how quickly and how evenly calendars are followed, and what a death costs.
//!
//! The last line holds every figure as `name=value`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures")]

mod allocation;
mod options;
mod processes;
mod simulated;

use std::process::ExitCode;

use tandem_tests::figures::Figures;

use options::{Options, Parts};

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
    let measured = run(&options, &mut figures).await;
    figures.conclude(&measured, &[])
}

async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    if options.parts != Parts::Simulated {
        processes::run(options, figures).await?;
    }
    if options.parts != Parts::Processes {
        simulated::run(options.simulated_users, options.cas, figures)?;
    }
    Ok(())
}
