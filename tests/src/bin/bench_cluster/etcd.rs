//! Three processes of Debian's etcd on loopback: mutual TLS among them, none towards their clients, data on the same disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tandem_tests::cluster::Addresses;
use tandem_tests::cluster::certificates::Authority;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::grpc::EtcdClient;
use crate::load::{COMMAND_BYTES, padded};
use crate::members::{directory, within};

pub(crate) struct Etcd {
    clients: Vec<EtcdClient>,
    /// Killed when this is dropped.
    _processes: Vec<Child>,
    /// Removed at the end, after the processes.
    _directory: TempDir,
}

impl Etcd {
    /// Starts all three and waits until each of them has committed something.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let program = program().await?;
        let directory = directory()?;
        let addresses = Addresses::unused()?;
        write_certificates(directory.path(), addresses)?;
        let processes = (0..3).map(|member| start_member(&program, directory.path(), addresses, member));
        let processes = processes.collect::<anyhow::Result<Vec<_>>>()?;
        let clients = (0..3).map(|member| connect(client_address(addresses, member)));
        let clients = within(PATIENCE, try_join_all(clients))
            .await
            .context("etcd does not answer")?;
        Ok(Self {
            clients,
            _processes: processes,
            _directory: directory,
        })
    }

    /// Which of them leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let leads = try_join_all(self.clients.iter().map(EtcdClient::leads)).await?;
        let leader = leads.iter().position(|leads| *leads);
        leader.context("no member of etcd says that it leads")
    }

    /// So many writers at each, each putting one value after the other under a key of its own; how long each Put took.
    pub(crate) async fn load(
        &self,
        writers: [usize; 3],
        duration: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let end = Instant::now() + duration;
        let mut writing = JoinSet::new();
        for (member, (client, writers)) in self.clients.iter().zip(writers).enumerate() {
            for writer in 0..writers {
                let key = format!("{member}-{writer:08}");
                writing.spawn(put_until(client.clone(), key, end));
            }
        }
        let mut taken = Vec::new();
        while let Some(written) = writing.join_next().await {
            taken.extend(written??);
        }
        Ok(taken)
    }
}

async fn put_until(client: EtcdClient, key: String, end: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut taken = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        let value = padded(taken.len(), COMMAND_BYTES);
        client.put(key.as_bytes(), value.as_bytes()).await?;
        taken.push(begun.elapsed());
    }
    Ok(taken)
}

/// Connects as soon as something can be committed there.
async fn connect(address: SocketAddr) -> anyhow::Result<EtcdClient> {
    loop {
        if let Ok(client) = EtcdClient::connect(address).await
            && client.put(b"first", b"").await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn client_address(addresses: Addresses, member: u8) -> SocketAddr {
    addresses.at(10 + member, 2379)
}

fn peer_url(addresses: Addresses, member: u8) -> String {
    format!("https://{}", addresses.at(10 + member, 2380))
}

/// One certificate for all: etcd compares its names with the addresses of both ends.
fn write_certificates(directory: &Path, addresses: Addresses) -> anyhow::Result<()> {
    let authority = Authority::new("etcd members")?;
    std::fs::write(directory.join("authority.pem"), authority.pem())?;
    let hosts = (0..3).map(|member| addresses.at(10 + member, 0).ip().to_string());
    let names: Vec<String> = hosts.chain(["127.0.0.1".to_owned()]).collect();
    authority.issue_for(&names)?.write(directory, "member")
}

fn start_member(program: &Path, directory: &Path, addresses: Addresses, member: u8) -> anyhow::Result<Child> {
    let client_url = format!("http://{}", client_address(addresses, member));
    let members = (0..3).map(|member| format!("m{member}={}", peer_url(addresses, member)));
    let options = [
        ("name", format!("m{member}")),
        (
            "data-dir",
            directory.join(format!("m{member}")).display().to_string(),
        ),
        ("listen-client-urls", client_url.clone()),
        ("advertise-client-urls", client_url),
        ("listen-peer-urls", peer_url(addresses, member)),
        ("initial-advertise-peer-urls", peer_url(addresses, member)),
        ("initial-cluster", members.collect::<Vec<_>>().join(",")),
        ("initial-cluster-token", "bench".to_owned()),
        ("peer-client-cert-auth", "true".to_owned()),
        (
            "peer-trusted-ca-file",
            directory.join("authority.pem").display().to_string(),
        ),
        (
            "peer-cert-file",
            directory.join("member.pem").display().to_string(),
        ),
        (
            "peer-key-file",
            directory.join("member.key").display().to_string(),
        ),
        ("quota-backend-bytes", QUOTA_BYTES.to_string()),
        ("logger", "zap".to_owned()),
        ("log-level", "error".to_owned()),
    ];
    let log = std::fs::File::create(directory.join(format!("m{member}.log")))?;
    Command::new(program)
        .args(options.map(|(name, value)| format!("--{name}={value}")))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

/// What is installed, or what was unpacked beside the build: the package would start a service.
async fn program() -> anyhow::Result<PathBuf> {
    if answers(Path::new("etcd")).await {
        return Ok(PathBuf::from("etcd"));
    }
    let this = std::env::current_exe().context("finding this program")?;
    let target = this.ancestors().nth(2).context("this program lies in no build")?;
    let tools = target.join("tools");
    let unpacked = tools.join("usr/bin/etcd");
    if !answers(&unpacked).await {
        println!("Unpacking Debian's package etcd-server …");
        unpack(&tools).await?;
    }
    ensure!(
        answers(&unpacked).await,
        "etcd is missing: install Debian's package etcd-server, or use --without-etcd"
    );
    Ok(unpacked)
}

async fn answers(program: &Path) -> bool {
    let version = Command::new(program).arg("--version").output().await;
    version.is_ok_and(|version| version.status.success())
}

async fn unpack(tools: &Path) -> anyhow::Result<()> {
    let packages = tools.join("packages");
    std::fs::create_dir_all(&packages)?;
    let script = "apt-get download etcd-server && dpkg-deb --extract etcd-server_*.deb ..";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(&packages)
        .output();
    let output = output.await.context("running apt-get")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "unpacking etcd-server: {said}");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Every Put leaves a revision; the default of 2 GB is soon full.
const QUOTA_BYTES: u64 = 8 << 30;
