//! A link that carries little, late, and loses some of it.

use std::sync::Once;

use anyhow::Context;

use super::namespace::administer;

/// What becomes of everything that a member sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlowLink {
    pub kilobits_per_second: u32,
    /// On top of what waiting in the queue takes; without effect where the kernel has no netem.
    pub delay_ms: u32,
    pub lost_percent: u8,
}

/// Lays the queue down in the caller's namespace. What is lost is lost in the filter, which every kernel has.
pub(super) fn lay(device: &str, link: SlowLink) -> anyhow::Result<()> {
    let rate = format!("{}kbit", link.kilobits_per_second);
    let queue = [
        "qdisc", "replace", "dev", device, "root", "handle", "1:", "tbf", "rate", &rate,
    ];
    let bounds = ["burst", "16kb", "latency", "400ms"];
    administer("tc", &[&queue[..], &bounds[..]].concat(), "").context("slowing a link down")?;
    let delay = format!("{}ms", link.delay_ms);
    let below = [
        "qdisc", "replace", "dev", device, "parent", "1:1", "netem", "delay", &delay,
    ];
    if administer("tc", &below, "").is_err() {
        SAID.call_once(|| println!("SKIPPED: the delay of slow links: this kernel has no netem"));
    }
    Ok(())
}

pub(super) fn remove(device: &str) -> anyhow::Result<()> {
    administer("tc", &["qdisc", "del", "dev", device, "root"], "")
}

static SAID: Once = Once::new();
