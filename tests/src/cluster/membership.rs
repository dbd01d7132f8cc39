//! What an administrator sees of the membership, and does to it: `tandem-node cluster …`, `/readyz`, logs, second processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::process::{Launch, Process};
use super::{Cluster, DEADLINE, Member, POLL, ask_node, binaries, configuration};

/// What a command in a terminal ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// -1 when a signal ended it.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

/// A process of a member, besides the one that the cluster started.
#[derive(Debug)]
pub struct Beside {
    process: Process,
    admin: SocketAddr,
    log: PathBuf,
}

impl Cluster {
    /// The number of a member of the Raft group.
    #[must_use]
    pub fn number(member: Member) -> Option<u64> {
        match member {
            Member::Lb => Some(configuration::WITNESS),
            Member::Node(id) => Some(id),
            Member::CtiManager(_) => None,
        }
    }

    /// Where a member has its admin listener.
    pub fn admin(&self, member: Member) -> anyhow::Result<SocketAddr> {
        let admin = self.addresses().admin(member);
        admin.with_context(|| format!("{member} has no admin listener"))
    }

    /// `tandem-node cluster …`, asked of node `at`.
    pub async fn ask_about_members(&self, at: Member, arguments: &[&str]) -> anyhow::Result<Told> {
        let admin = self.admin(at)?.to_string();
        let output = ask_node(&[&["cluster"], arguments, &["--admin", &admin]].concat()).await?;
        Ok(Told::of(&output))
    }

    /// `tandem-node cluster replace`, asked of node `at`, which must succeed.
    pub async fn replace(&self, at: Member, member: Member) -> anyhow::Result<Told> {
        let number = number(member)?.to_string();
        let told = self.ask_about_members(at, &["replace", &number]).await?;
        ensure!(told.status == 0, "cluster replace {number}: {told:?}");
        Ok(told)
    }

    /// Waits until `tandem-node cluster status` at node `at` ends with this exit status and `condition` likes its words.
    pub async fn wait_for_member_status(
        &self,
        at: Member,
        status: i32,
        condition: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Told> {
        let started = Instant::now();
        loop {
            let told = self.ask_about_members(at, &["status"]).await?;
            if told.status == status && condition(&told.text) {
                return Ok(told);
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "waited in vain for another status than {told:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a member that was launched answers on its admin listener, ready or not.
    pub async fn wait_until_it_answers(&self, member: Member) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.http(member, "GET", "/livez", "").await.is_err() {
            ensure!(started.elapsed() < DEADLINE, "{member} does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until `/readyz` of a member that takes no part says so in words that contain `text`.
    pub async fn wait_for_obstacle(&self, member: Member, text: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = self.http(member, "GET", "/readyz", "").await;
            if matches!(&answer, Ok(response) if response.status == 503 && response.body.contains(text)) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "{member} does not say {text:?}: {answer:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a member is ready, or says why it takes no part in words that contain `text`; true when it is ready.
    pub async fn wait_until_ready_or_obstacle(&self, member: Member, text: &str) -> anyhow::Result<bool> {
        let started = Instant::now();
        loop {
            let answer = self.http(member, "GET", "/readyz", "").await;
            match &answer {
                Ok(response) if response.status == 200 => return Ok(true),
                Ok(response) if response.body.contains(text) => return Ok(false),
                _ => {}
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "{member} is not ready and does not say {text:?}: {answer:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the log of a member has a line with all of these words after its first `after` lines.
    pub async fn wait_for_log(&self, member: Member, after: usize, words: &[&str]) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.log_lines(member, after, words) == 0 {
            ensure!(started.elapsed() < DEADLINE, "{member} has not logged {words:?}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// How many lines after the first `after` ones of a member's log have all of these words.
    #[must_use]
    pub fn log_lines(&self, member: Member, after: usize, words: &[&str]) -> usize {
        let log = self.log(member);
        log.lines()
            .skip(after)
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// How long a member's log is now.
    #[must_use]
    pub fn log_length(&self, member: Member) -> usize {
        self.log(member).lines().count()
    }

    /// Starts a member and waits for nothing.
    pub fn launch(&mut self, member: Member) -> anyhow::Result<()> {
        ensure!(!self.is_running(member), "{member} runs already");
        self.spawn(member)
    }

    /// Whether a member has ended by itself.
    pub fn has_ended(&mut self, member: Member) -> anyhow::Result<bool> {
        Ok(self.process(member)?.has_exited()?.is_some())
    }

    /// The exit code of a member that ends by itself.
    pub async fn wait_until_ended(&mut self, member: Member) -> anyhow::Result<i32> {
        let status = self.process(member)?.wait(DEADLINE).await?;
        self.forget(member);
        Ok(status)
    }

    /// Starts a process with a member's own configuration, and waits until it has given up.
    pub async fn start_once_more(&self, member: Member) -> anyhow::Result<Told> {
        let (binary, arguments) = self.command(member);
        end_of(binary, &arguments).await
    }

    /// The same on its data directory, at other addresses.
    pub async fn start_on_the_same_directory(&self, node: Member) -> anyhow::Result<Told> {
        let directory = self.data_directory(node)?;
        let arguments = self.configuration_beside(node, &directory)?;
        end_of("tandem-node", &arguments).await
    }

    /// Starts a node's second process on another directory, at other addresses.
    pub fn start_beside(&self, node: Member, directory: &Path) -> anyhow::Result<Beside> {
        let arguments = self.configuration_beside(node, directory)?;
        let log = self.directory().join(format!("{node}-beside.log"));
        let process = Process::start(Launch {
            binary: "tandem-node",
            arguments: &arguments,
            log: &log,
            log_filter: &self.options.log_filter,
            environment: Vec::new(),
            namespace: self.namespace(node),
        })?;
        Ok(Beside {
            process,
            admin: self.addresses().admin_beside(number(node)?),
            log,
        })
    }

    fn configuration_beside(&self, node: Member, directory: &Path) -> anyhow::Result<Vec<String>> {
        let text = configuration::node_beside(number(node)?, self.addresses(), &self.options, directory);
        let path = self.directory().join(format!("{node}-beside.toml"));
        std::fs::write(&path, text)?;
        Ok(vec!["--config".to_owned(), path.display().to_string()])
    }
}

impl Beside {
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.process.kill_now();
    }
}

impl Told {
    fn of(output: &std::process::Output) -> Self {
        let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        Self {
            status: output.status.code().unwrap_or(-1),
            text: text.concat(),
        }
    }
}

async fn end_of(binary: &str, arguments: &[String]) -> anyhow::Result<Told> {
    let path = binaries::path(binary)?;
    let mut command = tokio::process::Command::new(&path);
    let output = command.args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(GIVES_UP, output).await;
    Ok(Told::of(
        &output.with_context(|| format!("{binary} does not give up"))??,
    ))
}

fn number(member: Member) -> anyhow::Result<u64> {
    Cluster::number(member).with_context(|| format!("{member} is no member of the cluster"))
}

const GIVES_UP: Duration = Duration::from_secs(10);
