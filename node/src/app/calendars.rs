//! What `[exchange]` is made into: the calendars of this node, and the routes that tell of them.

use std::sync::Arc;

use anyhow::Context;
use prometheus::Registry;
use tandem_cluster::NodeId;
use tandem_raft::Cluster;
use tandem_runtime::io::environment;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::telemetry::Metrics;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::admin::exchange::AccountView;
use crate::calendar::{self, CalendarsConfig};
use crate::config::{ConnectionLimits, ExchangeConfig};
use crate::directory::Directory;
use crate::io::exchange::certificate_import::ImportOptions;
use crate::io::exchange::certificate_routes::CertificateRoutes;
use crate::io::exchange::client::{ClientOptions, EwsClient, Transport};
use crate::io::exchange::credential_source::CredentialSource;
use crate::io::exchange::driver::{CalendarDriver, Question};
use crate::io::exchange::probe::Prober;
use crate::io::exchange::push::Push;
use crate::io::exchange::push_listener::PushMetrics;
use crate::io::exchange::routes::ExchangeRoutes;
use crate::io::exchange::trust::CasTrust;
use crate::io::presence::PresenceOut;
use crate::io::rebalancing::Rebalancing;
use crate::metrics::CalendarMetrics;
use crate::rebalancing::Share;

/// What calendars need of the rest of the node.
pub(super) struct Parts<'a> {
    pub(super) id: NodeId,
    pub(super) incarnation: watch::Receiver<u64>,
    pub(super) cluster: Cluster,
    pub(super) directory: watch::Receiver<Arc<Directory>>,
    pub(super) presence: PresenceOut,
    pub(super) registry: &'a Registry,
    pub(super) shutdown: Shutdown,
}

/// The calendars that run.
pub(super) struct Calendars {
    pub(super) routes: ExchangeRoutes,
    questions: mpsc::Sender<Question>,
}

impl Calendars {
    /// The users have other owners by now; what is under way is finished by the loop's own deadline.
    pub(super) async fn stop(&self) {
        // The loop may have ended.
        let _ = self.questions.send(Question::Stop).await;
    }
}

pub(super) async fn start(config: &ExchangeConfig, parts: Parts<'_>) -> anyhow::Result<Calendars> {
    let credential = CredentialSource::open(config).context("reading the credential for Exchange")?;
    let trust = CasTrust::open(&config.trust_directory).context("opening exchange.trust_directory")?;
    let account = {
        let current = credential.current();
        let current = current.load();
        AccountView {
            name: current.account.to_string(),
            authentication: current.authentication.label(),
        }
    };
    let client = EwsClient::new(
        client_options(&config.connections, config.settings.concurrency_max),
        Arc::new(trust.clone()),
        credential.current(),
    );
    let counters = client.counters().register(parts.registry);
    counters.context("registering the metrics of Exchange")?;
    let push = match &config.push {
        Some(push) => {
            let metrics = PushMetrics::register(&Metrics::new(parts.registry));
            Some(Push::open(push, metrics, parts.shutdown.clone()).await?)
        }
        None => None,
    };
    let identity = push.as_ref().and_then(|push| push.identity.clone());
    let (urls, arrived) = match push {
        Some(push) => {
            tokio::spawn(push.keeper.run());
            (Some(push.urls), Some(push.arrived))
        }
        None => (None, None),
    };
    let (questions, asked) = mpsc::channel(QUESTIONS_WAITING_MAX);
    let routes = ExchangeRoutes {
        id: parts.id,
        cluster: parts.cluster.clone(),
        directory: parts.directory.clone(),
        questions: questions.clone(),
        prober: Prober::new(client.clone(), trust.clone(), credential.changes()),
        rebalancing: Rebalancing::new(Share::UsersOfCas, parts.id),
        certificates: CertificateRoutes {
            store: trust.clone(),
            identity,
            options: ImportOptions::default(),
        },
        account,
    };
    let driver = CalendarDriver {
        incarnation: parts.incarnation,
        calendars: calendar::Calendars::new(
            CalendarsConfig {
                has_push: urls.is_some(),
                initial_cas: config.cas_list.clone(),
                ..CalendarsConfig::new(parts.id)
            },
            config.settings.clone(),
            environment::random(),
        ),
        cluster: parts.cluster,
        directory: parts.directory,
        client,
        credential_changes: credential.changes(),
        push: urls,
        arrived,
        presence: parts.presence,
        questions: asked,
        metrics: CalendarMetrics::register(parts.registry),
    };
    tokio::spawn(credential.follow());
    tokio::spawn(follow(trust, parts.shutdown.clone()));
    parts.shutdown.spawn_vital("calendars", driver.run());
    Ok(Calendars { routes, questions })
}

fn client_options(limits: &ConnectionLimits, concurrency_max: usize) -> ClientOptions {
    let default = ClientOptions::default();
    ClientOptions {
        transport: match environment::network_is_private() {
            true => Transport::Plain,
            false => Transport::Tls,
        },
        connect_timeout: limits.connect_timeout,
        // A probe or two beside what the calendars ask.
        connections_max: default.connections_max.max(concurrency_max + 2),
        streams_max: limits.streams_max,
        idle_max: limits.idle_max,
        idle_timeout: limits.idle_timeout,
        answer_bytes_max: limits.response_bytes_max,
        stream_bytes_max: limits.stream_bytes_max,
        ..default
    }
}

/// An administrator may put certificates into the directory by hand.
async fn follow(trust: CasTrust, shutdown: Shutdown) {
    let mut looks = interval(TRUST_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => if let Err(error) = trust.refresh() {
                warn!(%error, "cannot reload the trust store");
            },
            () = shutdown.reached(Stage::Close) => return,
        }
    }
}

const QUESTIONS_WAITING_MAX: usize = 64;
const TRUST_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);
