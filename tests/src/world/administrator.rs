//! The administrator, who plans and changes things while other things go wrong.

use std::collections::BTreeMap;
use std::fmt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::WorldOptions;
use super::faults::cas_name;
use crate::cluster::{Addresses, Member, post_to};
use crate::peers::exchange::now_ms;

/// What an administrator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    SessionsRebalanced,
    CasRebalanced,
    /// A Client Access Server gets no new users, or gets some again.
    CasSetAside,
    SettingChanged,
}

impl Deed {
    pub const ALL: [Self; 4] = [
        Self::SessionsRebalanced,
        Self::CasRebalanced,
        Self::CasSetAside,
        Self::SettingChanged,
    ];
}

/// What was asked for, and whether it was promised.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) deed: Deed,
    /// Unix milliseconds.
    pub(super) from_ms: i64,
    pub(super) until_ms: i64,
    /// Otherwise nobody knows what came of it.
    acknowledged: bool,
    setting: Option<(&'static str, Value)>,
}

/// Asks nodes for things, one after the other.
pub(super) struct Administrator {
    addresses: Addresses,
    random: StdRng,
    seed: usize,
    nodes: u64,
    cas: usize,
    dealt: usize,
    aside: Option<usize>,
    settings: BTreeMap<&'static str, Possible>,
}

/// What a setting may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Possible {
    /// What was acknowledged last, and what was asked for since.
    pub(super) values: Vec<Value>,
    /// Something was acknowledged: whatever was in force before is not.
    pub(super) is_certain: bool,
}

impl Administrator {
    pub(super) fn new(options: &WorldOptions, addresses: Addresses) -> Self {
        Self {
            addresses,
            random: StdRng::seed_from_u64(options.seed ^ 0xad_317),
            seed: usize::try_from(options.seed % 1000).unwrap_or_default(),
            nodes: options.nodes,
            cas: options.cas,
            dealt: 0,
            aside: None,
            settings: BTreeMap::new(),
        }
    }

    /// Something is asked of some node, which may be in trouble. The first deeds of the first seeds are all different.
    pub(super) fn begin(&mut self) -> JoinHandle<Done> {
        let deed = match self.dealt {
            0 => Deed::ALL[self.seed % Deed::ALL.len()],
            _ => *Deed::ALL.choose(&mut self.random).expect("there are some"),
        };
        self.dealt += 1;
        let (path, body, setting) = self.request(deed);
        let node = Member::Node(self.random.random_range(1..=self.nodes));
        self.ask(node, deed, path, body, setting)
    }

    /// Each Client Access Server gets new users again.
    pub(super) async fn take_all_cas_back(&mut self) -> anyhow::Result<()> {
        let Some(admin) = self.addresses.admin(Member::Node(1)) else {
            return Ok(());
        };
        for number in 0..self.cas {
            let body = json!({ "name": cas_name(number), "eligible": true });
            post_to(admin, ELIGIBLE, &body).await?;
        }
        self.aside = None;
        Ok(())
    }

    /// Moves as few users as make the servers' shares equal.
    pub(super) fn rebalance_cas(&self) -> JoinHandle<Done> {
        let body = json!({ "per_second": 50 });
        self.ask(Member::Node(1), Deed::CasRebalanced, REBALANCE, body, None)
    }

    /// Changes a setting at this node, to another value than any that it may have.
    pub(super) fn change_a_setting(&self, node: Member) -> JoinHandle<Done> {
        let (name, value) = ("calendar_moves_per_second", 77);
        let body = json!({ "name": name, "value": value });
        let setting = Some((name, json!(value)));
        self.ask(node, Deed::SettingChanged, "/settings", body, setting)
    }

    /// Takes note of what came of it.
    pub(super) fn note(&mut self, done: &Done) {
        let Some((name, value)) = &done.setting else {
            return;
        };
        let possible = self.settings.entry(name).or_default();
        if done.acknowledged {
            possible.values.clear();
            possible.is_certain = true;
        }
        possible.values.push(value.clone());
    }

    /// Each setting that was ever to be changed.
    pub(super) fn settings(&self) -> &BTreeMap<&'static str, Possible> {
        &self.settings
    }

    fn request(&mut self, deed: Deed) -> (&'static str, Value, Option<(&'static str, Value)>) {
        match deed {
            Deed::SessionsRebalanced => ("/sessions/rebalance", json!({ "per_second": 50 }), None),
            Deed::CasRebalanced => (REBALANCE, json!({ "per_second": 50 }), None),
            Deed::CasSetAside => {
                let (number, eligible) = match self.aside.take() {
                    Some(number) => (number, true),
                    None => (self.random.random_range(0..self.cas), false),
                };
                self.aside = (!eligible).then_some(number);
                let body = json!({ "name": cas_name(number), "eligible": eligible });
                (ELIGIBLE, body, None)
            }
            Deed::SettingChanged => {
                let (name, values) = SETTINGS.choose(&mut self.random).expect("there are some");
                let value = values.choose(&mut self.random).expect("each has values");
                // The interface takes a number as a number.
                let number = value.parse::<u64>();
                let value = number.map_or_else(|_| json!(value), |number| json!(number));
                let body = json!({ "name": name, "value": value });
                ("/settings", body, Some((*name, value)))
            }
        }
    }

    fn ask(
        &self,
        node: Member,
        deed: Deed,
        path: &'static str,
        body: Value,
        setting: Option<(&'static str, Value)>,
    ) -> JoinHandle<Done> {
        let address = self.addresses.admin(node);
        tracing::info!("the administrator asks {node} for {path} {body}");
        tokio::spawn(async move {
            let from_ms = now_ms();
            let answer = match address {
                Some(address) => post_to(address, path, &body).await,
                None => Err(anyhow::anyhow!("nobody to ask")),
            };
            if let Err(error) = &answer {
                tracing::info!("the administrator is refused: {error:#}");
            }
            Done {
                deed,
                from_ms,
                until_ms: now_ms(),
                acknowledged: answer.is_ok(),
                setting,
            }
        })
    }
}

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}, acknowledged: {}", self.deed, self.acknowledged)
    }
}

pub(super) const ELIGIBLE: &str = "/exchange/gateways/eligible";
const REBALANCE: &str = "/exchange/rebalance";
/// Those that change while people work, each with values that suit a world of minutes.
const SETTINGS: [(&str, &[&str]); 6] = [
    ("session_timer_secs", &["600", "1800", "3600"]),
    ("calendar_delivery", &["push_first", "streaming_first"]),
    ("calendar_sweep_secs", &["5", "10", "20"]),
    ("calendar_spread_secs", &["0", "2", "3"]),
    ("calendar_moves_per_second", &["20", "100"]),
    ("exchange_threads", &["4", "8"]),
];
