//! One network namespace: made here, held by a file, gone with it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. Who enters it is a thread, for one action: all other threads stay where they are.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// An empty one, in which nothing but a loopback interface is found.
    pub(super) fn new() -> anyhow::Result<Self> {
        let made = || -> anyhow::Result<File> {
            enter_a_new_one()?;
            Ok(File::open(OWN)?)
        };
        let file = on_another_thread(made).context("making a network namespace")?;
        Ok(Self(file))
    }

    /// What `action` does, and what the processes do that it starts, happens in this namespace.
    pub(super) fn run<R: Send>(
        &self,
        action: impl FnOnce() -> anyhow::Result<R> + Send,
    ) -> anyhow::Result<R> {
        on_another_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            action()
        })
    }

    /// As `ip` wants to be told it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// From now on the calling thread, and whatever it starts, has an empty network of its own.
pub(super) fn enter_a_new_one() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("leaving the network of the host")
}

/// Runs a tool of the administrator in the caller's namespace, with these lines as its input.
pub(super) fn administer(tool: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = command(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {tool}"))?;
    let mut lines = child.stdin.take().context("a pipe was asked for")?;
    lines.write_all(input.as_bytes())?;
    drop(lines);
    let output = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{tool} {arguments:?}: {told} of\n{input}"
    );
    Ok(())
}

/// A tool of the administrator, which is not in everybody's path.
pub(super) fn command(tool: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(tool);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn on_another_thread<R: Send>(action: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
    std::thread::scope(|scope| {
        let joined = scope.spawn(action).join();
        joined.map_err(|_| anyhow!("a thread in another namespace has panicked"))?
    })
}

const OWN: &str = "/proc/thread-self/ns/net";
