//! The Exchange beside a cluster: its servers, and what the nodes are told of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::certificates::Authority;
use super::{Addresses, ClusterOptions};
use crate::peers::exchange::account::Account;
use crate::peers::exchange::subscriptions::Timing;
use crate::peers::exchange::{Exchange, ExchangeSite};
use crate::peers::ocs::user_id;

/// What kind of Exchange stands beside the cluster, and how the nodes treat it.
#[derive(Debug, Clone)]
pub struct ExchangeOptions {
    /// Client Access Servers, `cas1` and so on, in round robin from the first to the last.
    pub cas: usize,
    pub timing: Timing,
    /// `push_first`, `streaming_first` and so on, as in `[calendar]`.
    pub delivery: &'static str,
    /// Calendar Spread. None, unless a story is about it: nobody likes to wait.
    pub spread_secs: u32,
    pub request_timeout: Duration,
    /// How often deaf subscriptions are looked for.
    pub sweep_secs: u32,
    /// Users moved off a failed gateway per second and node.
    pub moves_per_second: u32,
    /// Plain HTTP between nodes and gateways is no choice; callbacks may go without TLS on loopback.
    pub push_tls: bool,
    /// The users who have a calendar.
    pub calendars: Range<usize>,
}

impl Default for ExchangeOptions {
    fn default() -> Self {
        Self {
            cas: 4,
            timing: Timing {
                first_retry: Duration::from_secs(1),
                heartbeat: Duration::from_secs(2),
                ..Timing::default()
            },
            delivery: "push_first",
            spread_secs: 0,
            request_timeout: Duration::from_secs(3),
            sweep_secs: 5,
            moves_per_second: 100,
            push_tls: true,
            calendars: 0..usize::MAX,
        }
    }
}

/// Starts the servers and writes what nodes need: the password, the callback key, the certificates.
pub(super) async fn start(
    directory: &Path,
    addresses: Addresses,
    options: &ExchangeOptions,
    cluster: &ClusterOptions,
) -> anyhow::Result<Exchange> {
    let users = cluster.users;
    let authority = Authority::new("exchange")?;
    write_secrets(directory, cluster.nodes)?;
    for node in 1..=cluster.nodes {
        std::fs::write(
            directory.join(format!("trust{node}/exchange.pem")),
            authority.pem(),
        )?;
        let issued = authority.issue(&addresses.push(node).ip().to_string())?;
        issued.write(directory, &format!("push{node}"))?;
    }
    let listen: Vec<_> = (0..options.cas).map(|number| addresses.cas(number)).collect();
    let tls = listen
        .iter()
        .map(|address| authority.server_config(&address.ip().to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let exchange = Exchange::start(ExchangeSite {
        listen,
        tls: Some(tls),
        callback_tls: Some(authority.client_config()?),
        timing: options.timing,
        account: account(),
    })
    .await?;
    exchange
        .ask(move |servers| {
            for user in 0..users {
                servers.store_mut().add(&mailbox(user), &[], "mbx1");
            }
        })
        .await;
    Ok(exchange)
}

/// What nodes need of Exchange beside their configuration: the password, the callback key, a trust store for each.
///
/// # Errors
/// When a file cannot be written.
pub fn write_secrets(directory: &Path, nodes: u64) -> anyhow::Result<()> {
    write_secret(&directory.join("exchange.password"), PASSWORD)?;
    write_secret(&directory.join("callback.key"), CALLBACK_KEY)?;
    for node in 1..=nodes {
        std::fs::create_dir_all(directory.join(format!("trust{node}")))?;
    }
    Ok(())
}

/// The account that all nodes sign in with.
#[must_use]
pub fn account() -> Account {
    Account::new(&[ACCOUNT, "LAB\\svc-presence"], PASSWORD)
}

/// `[exchange]` and `[calendar]` of a node. Paths are relative to the file.
pub(super) fn sections(node: u64, addresses: Addresses, options: &ExchangeOptions) -> String {
    let push = addresses.push(node);
    let (scheme, certificate) = if options.push_tls {
        let files = format!("certificate = \"push{node}.pem\"\nkey = \"push{node}.key\"\n");
        ("https", files)
    } else {
        ("http", String::new())
    };
    let mut text = format!(
        "[exchange]\naccount = \"{ACCOUNT}\"\npassword_file = \"exchange.password\"\nauthentication = \"basic\"\n\
         trust_directory = \"trust{node}\"\ncallback_key_file = \"callback.key\"\ntimeout_ms = {timeout}\n\n\
         [exchange.push]\nlisten = \"{push}\"\nadvertise = \"{scheme}://{push}\"\n{certificate}\n\
         [calendar]\ndelivery = \"{delivery}\"\nspread_secs = {spread}\nsweep_secs = {sweep}\n\
         moves_per_second = {moves}\npull_secs = 1\n\n",
        timeout = options.request_timeout.as_millis(),
        delivery = options.delivery,
        spread = options.spread_secs,
        sweep = options.sweep_secs,
        moves = options.moves_per_second,
    );
    for number in 0..options.cas {
        let address = addresses.cas(number);
        let _ = write!(
            text,
            "[[exchange.gateway]]\nname = \"cas{}\"\nhost = \"{}\"\nport = {}\n\n",
            number + 1,
            address.ip(),
            address.port()
        );
    }
    text
}

/// Writes a file that only its owner may read, in one step: a node may look at any moment.
pub(super) fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{secret}")?;
    drop(file);
    std::fs::rename(new, path)?;
    Ok(())
}

/// The n-th user's address, as in the directory.
#[must_use]
pub fn mailbox(user: usize) -> String {
    format!("{}@mail.example.com", user_id(user))
}

const ACCOUNT: &str = "svc-presence@lab.test";
/// As it is when everything is right.
pub const PASSWORD: &str = "a secret of the laboratory";
const CALLBACK_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
