//! A network of its own for one test: nobody else sees what happens in it, and it is gone with the test.
//!
//! Owns the thread's network namespace and the runtime in it. What always holds: a [`Hub`] exists only where the host's
//! network cannot be reached, so no cable, rule or address of the host is ever touched.

use std::process::Command;

use anyhow::{Context, bail};

use super::{Family, binaries, namespace, wall_clock};

/// The middle of a network that a test has for itself. Nothing but [`in_a_network_of_its_own`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Hub {
    pub(super) family: Family,
}

/// What else a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Members whose wall clocks can be stepped.
    SteppedClocks,
}

/// Where a test goes on.
enum Place {
    Here,
    /// In a process that has run it already.
    Elsewhere,
}

impl Hub {
    /// The same network, in which members have IPv6 addresses alone.
    #[must_use]
    pub fn over_ipv6(self) -> Self {
        Self { family: Family::V6 }
    }
}

/// Runs a test in a network of its own. Where that cannot be had, the test is skipped, and says why.
///
/// # Panics
///
/// When the test fails, when the programs under test cannot be built, or when nothing may be skipped.
pub fn in_a_network_of_its_own<T>(needs: Needs, test: impl FnOnce(Hub) -> T)
where
    T: Future<Output = anyhow::Result<()>>,
{
    // While there is a network: Cargo is asked. A program that cannot be built is no reason to skip anything.
    binaries::path("tandem-node").unwrap();
    match enter(needs) {
        Ok(Place::Here) => run(test).unwrap(),
        Ok(Place::Elsewhere) => {}
        Err(reason) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "nothing may be skipped under CI: {reason:#}"
            );
            println!("SKIPPED: a network of its own: {reason:#}");
        }
    }
}

fn enter(needs: Needs) -> anyhow::Result<Place> {
    if needs == Needs::SteppedClocks {
        wall_clock::library()?;
    }
    for tool in ["ip", "nft", "tc"] {
        let asked = namespace::command(tool).arg("-V").output();
        asked.with_context(|| format!("{tool} is not installed"))?;
    }
    if nix::unistd::geteuid().is_root() {
        namespace::enter_a_new_one()?;
        return Ok(Place::Here);
    }
    run_as_root_of_a_user_namespace()
}

/// Who is not root is root in a namespace of users, if the host allows that: a process of its own, as it must be
/// entered before there are threads.
fn run_as_root_of_a_user_namespace() -> anyhow::Result<Place> {
    let thread = std::thread::current();
    let test = thread.name().context("the test has no name")?;
    let unshare = ["--user", "--map-root-user", "--mount", "--net"];
    let allowed = Command::new("unshare").args(unshare).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        bail!("this is not the superuser, and there are no user namespaces");
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .status()?;
    assert!(status.success(), "{test} has failed in its user namespace");
    Ok(Place::Elsewhere)
}

/// The runtime's threads are started by this one, and are where it is.
fn run<T>(test: impl FnOnce(Hub) -> T) -> anyhow::Result<()>
where
    T: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(test(Hub { family: Family::V4 }))
}
