//! `tandem-cti-manager`: one killable CTI manager in front of the simulated PBX.

use anyhow::Context;
use lexopt::ValueExt;
use tandem_tests::peers::cti_manager::{self, CtiManagerOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    cti_manager::run(options()?).await
}

fn options() -> anyhow::Result<CtiManagerOptions> {
    let (mut listen, mut pbx, mut name) = (None, None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("listen") => listen = Some(arguments.value()?.parse_with(str::parse)?),
            lexopt::Arg::Long("pbx") => pbx = Some(arguments.value()?.parse_with(str::parse)?),
            lexopt::Arg::Long("name") => name = Some(arguments.value()?.string()?),
            other @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                return Err(other.unexpected().into());
            }
        }
    }
    Ok(CtiManagerOptions {
        listen: listen.context("--listen ADDRESS is missing")?,
        pbx: pbx.context("--pbx ADDRESS is missing")?,
        name: name.context("--name NAME is missing")?,
    })
}
