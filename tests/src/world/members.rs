//! The processes of a simulated world: the product's own, and the simulated ones around it.

use std::net::SocketAddr;
use std::path::PathBuf;

use tandem_runtime::config::read_file;

use super::machine::Program;
use crate::peers::cti_manager::{self, CtiManagerOptions};
use crate::peers::exchange::backend::{self, Backend};

/// `tandem-node` with this configuration.
pub(super) fn node(config: PathBuf) -> Program {
    Box::new(move || {
        let config = config.clone();
        Box::pin(async move {
            let served = match read_file(&config, tandem_node::config::read_with_files) {
                Ok(config) => tandem_node::app::serve(config).await,
                Err(error) => Err(error.into()),
            };
            match served {
                Ok(status) => tracing::info!(?status, "the process has ended"),
                Err(error) => tracing::error!("the process has ended: {error:#}"),
            }
        })
    })
}

/// `tandem-lb` with this configuration.
pub(super) fn front_end(config: PathBuf) -> Program {
    Box::new(move || {
        let config = config.clone();
        Box::pin(async move {
            let served = match read_file(&config, tandem_lb::config::Config::read) {
                Ok(config) => tandem_lb::app::run(config).await,
                Err(error) => Err(error.into()),
            };
            match served {
                Ok(status) => tracing::info!(?status, "the process has ended"),
                Err(error) => tracing::error!("the process has ended: {error:#}"),
            }
        })
    })
}

pub(super) fn cti_manager(listen: SocketAddr, pbx: SocketAddr, name: String) -> Program {
    Box::new(move || {
        let name = name.clone();
        Box::pin(async move {
            let options = CtiManagerOptions { listen, pbx, name };
            if let Err(error) = cti_manager::run(options).await {
                tracing::error!("the CTI manager has ended: {error:#}");
            }
        })
    })
}

/// One Client Access Server, counted from 0.
pub(super) fn client_access_server(backend: Backend, number: usize, listen: SocketAddr) -> Program {
    Box::new(move || {
        let backend = backend.clone();
        Box::pin(async move {
            if let Err(error) = backend::serve(backend, number, listen).await {
                tracing::error!("the Client Access Server has ended: {error:#}");
            }
        })
    })
}

/// A process that is started once.
pub(super) fn once(work: impl Future<Output = ()> + Send + 'static) -> Program {
    let mut work = Some(Box::pin(work));
    Box::new(move || match work.take() {
        Some(work) => work,
        None => Box::pin(async {}),
    })
}
