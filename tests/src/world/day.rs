//! A day at the office: people call and are called, meetings begin and end, while machines die, wires are cut, clocks jump
//! and an administrator changes things.
//!
//! Owns the order in which things go wrong and are put right, and when each property is judged. Does not own what goes wrong
//! ([`Faults`]), what people with calendars do ([`Calendars`]), nor what must hold (`properties`). After each trouble all of
//! it heals, apart from a Client Access Server's, which may last for several; in the end everything has to be as it must be.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tandem_runtime::io::environment;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::administrator::{Administrator, Done};
use super::calendars::Calendars;
use super::disturbances::Disturbances;
use super::faults::{Faults, Trouble};
use super::properties::{self, Property};
use super::{DayReport, FaultKind, Operator, WorldOptions};
use crate::cluster::{Addresses, Member, get_from, status_of};
use crate::peers::communicator::{Presence, Tolerance};
use crate::peers::exchange::backend::Backend;
use crate::peers::exchange::mail_store::Status;
use crate::peers::exchange::now_ms;
use crate::peers::front_end::{ConnectionNumber, FrontEnd};
use crate::peers::ocs::{Ocs, OcsOptions, phone_number};
use crate::peers::pbx::Pbx;
use crate::scenario::{Begun, Office, sign_in_again};

/// One day, with its people.
pub struct Day {
    pub(super) options: WorldOptions,
    pub(super) office: Office,
    calendars: Calendars,
    pub(super) administrator: Administrator,
    faults: Faults,
    pub(super) operator: Operator,
    pub(super) addresses: Addresses,
    random: StdRng,
    /// Signed in from the morning on; those behind them come while something is wrong.
    pub(super) steady: usize,
    pub(super) newcomers: std::ops::Range<usize>,
    /// They come for the drills.
    pub(super) latecomers: std::ops::Range<usize>,
    disturbances: Disturbances,
    deeds: Vec<Done>,
    /// What is wrong with a Client Access Server, and for how many rounds yet.
    cas_trouble: Option<Standing>,
    report: DayReport,
}

/// A trouble that outlasts a round.
struct Standing {
    trouble: Trouble,
    disturbance: usize,
    rounds: u32,
}

impl Day {
    /// Runs on the machine of the office, from signing in to the last judgement.
    ///
    /// # Errors
    /// When something was not as it must be: what, and where.
    pub async fn run(
        options: WorldOptions,
        operator: Operator,
        addresses: Addresses,
        exchange: Backend,
    ) -> anyhow::Result<DayReport> {
        let mut day = Self::begin(options, operator, addresses, exchange).await?;
        let end = environment::now() + day.options.troubled;
        while environment::now() < end {
            day.round().await?;
        }
        day.end().await
    }

    async fn begin(
        options: WorldOptions,
        operator: Operator,
        addresses: Addresses,
        exchange: Backend,
    ) -> anyhow::Result<Self> {
        let phones = (0..options.users).map(phone_number).collect();
        let pbx = Pbx::start(addresses.pbx(), phones).await?;
        let ocs = Ocs::start(OcsOptions {
            address: addresses.ocs(0),
            vip: addresses.vip(),
            // One more than have a phone: the second client of one of them.
            users: 0..options.users + 1,
            connections: 1,
            office_communicator_every: 2,
            colliding_group: 3,
        })
        .await?;
        let mut disturbances = Disturbances::default();
        let morning = disturbances.begin(now_ms(), None);
        let steady = options.users * 3 / 4;
        let mut day = Self {
            office: Office::new(ocs, pbx),
            calendars: Calendars::begin(&options, addresses, exchange).await?,
            administrator: Administrator::new(&options, addresses),
            faults: Faults::new(&options, operator.clone()),
            operator,
            addresses,
            random: StdRng::seed_from_u64(options.seed ^ 0xdaf),
            steady,
            newcomers: steady..options.users - LATECOMERS,
            latecomers: options.users - LATECOMERS..options.users,
            disturbances,
            deeds: Vec::new(),
            cas_trouble: None,
            report: DayReport::default(),
            options,
        };
        day.all_is_well().await.context("in the morning")?;
        day.office.sign_in(0..steady).await?;
        day.calendars.renew(day.office.patience).await?;
        day.disturbances.end(morning, now_ms());
        Ok(day)
    }

    /// Something goes wrong while people work; it is put right, and everything is as it must be.
    async fn round(&mut self) -> anyhow::Result<()> {
        let troubles = self.faults.befall_members();
        let kinds: Vec<_> = troubles.iter().map(ToString::to_string).collect();
        tracing::info!("trouble: {kinds:?}");
        for trouble in &troubles {
            *self.report.faults.entry(trouble.kind).or_default() += 1;
        }
        let disturbance = self.disturbances.begin(now_ms(), None);
        self.calendars.watchers.ask(|crowd| crowd.delays(true)).await;
        self.trouble_a_cas();
        let acting = self.act();
        let before = self.connections().await;
        let begun = self.begin_work(&troubles).await;
        self.calendars.live().await?;
        sleep(self.faults.milliseconds(200..2500)).await;
        let front_end_is_gone = troubles.iter().any(Trouble::takes_front_end);
        let clients_were_cut_off = troubles
            .iter()
            .any(|trouble| trouble.kind == FaultKind::ClientsCutOff);
        self.put_right(troubles);
        let healed_at = environment::now();
        if front_end_is_gone {
            self.wait_for_other_connections(before).await?;
        } else if clients_were_cut_off {
            // A connection that broke at one end only is found by the other's probes.
            sleep(PROBED_WITHIN).await;
        }
        self.acted(acting).await?;
        let judged = self.judge(begun, healed_at).await;
        judged.with_context(|| format!("after {kinds:?}"))?;
        self.disturbances.end(disturbance, now_ms());
        self.let_a_cas_recover();
        Ok(())
    }

    fn put_right(&self, troubles: Vec<Trouble>) {
        for order in troubles.into_iter().rev().flat_map(|trouble| trouble.cure) {
            self.operator.order(order);
        }
    }

    /// A Client Access Server gets into trouble, in the first round at the latest.
    fn trouble_a_cas(&mut self) {
        let begins = self.report.deeds.is_empty() || self.faults.is_likely(1, 2);
        if self.cas_trouble.is_some() || !begins {
            return;
        }
        let trouble = self.faults.befall_a_cas();
        tracing::info!("trouble: {trouble}");
        *self.report.faults.entry(trouble.kind).or_default() += 1;
        self.cas_trouble = Some(Standing {
            disturbance: self.disturbances.begin(now_ms(), trouble.fails_cas),
            trouble,
            rounds: self.random.random_range(1..=3),
        });
    }

    fn let_a_cas_recover(&mut self) {
        if let Some(standing) = &mut self.cas_trouble {
            standing.rounds -= 1;
            if standing.rounds == 0 {
                self.put_cas_right();
            }
        }
    }

    fn put_cas_right(&mut self) {
        if let Some(standing) = self.cas_trouble.take() {
            self.put_right(vec![standing.trouble]);
            self.disturbances.end(standing.disturbance, now_ms());
        }
    }

    /// The administrator does something, in the first round at the latest.
    fn act(&mut self) -> Option<JoinHandle<Done>> {
        let acts = self.report.deeds.is_empty() || self.faults.is_likely(1, 2);
        acts.then(|| self.administrator.begin())
    }

    async fn acted(&mut self, acting: Option<JoinHandle<Done>>) -> anyhow::Result<()> {
        if let Some(acting) = acting {
            let done = acting.await.context("the administrator")?;
            tracing::info!("the administrator: {done}");
            *self.report.deeds.entry(done.deed).or_default() += 1;
            self.administrator.note(&done);
            self.deeds.push(done);
        }
        Ok(())
    }

    pub(super) fn cti_managers(&self) -> usize {
        self.options.cti_managers
    }

    pub(super) async fn connections(&self) -> Vec<ConnectionNumber> {
        self.office.ocs.ask(|front_end| front_end.connections()).await
    }

    /// A front end that was gone silently is missed when something is sent to it, or when it is probed.
    pub(super) async fn wait_for_other_connections(
        &self,
        before: Vec<ConnectionNumber>,
    ) -> anyhow::Result<()> {
        let noticed = move |front_end: &FrontEnd| {
            let now = front_end.connections();
            !now.is_empty() && now.iter().all(|connection| !before.contains(connection))
        };
        let ocs = &self.office.ocs;
        ocs.wait_until(
            "OCS has noticed, and is connected again",
            self.office.patience,
            noticed,
        )
        .await
    }

    /// People call and are called, one more comes to work, and some look at their phones.
    async fn begin_work(&mut self, troubles: &[Trouble]) -> Begun {
        let mut people: Vec<usize> = (0..self.steady).collect();
        people.shuffle(&mut self.random);
        let breaks = troubles.iter().any(|trouble| trouble.breaks_clients_off);
        let parts = troubles.iter().any(|trouble| trouble.parts_nodes_from_clients);
        // A client that loses its connection cannot know what became of what it asked for, so none asks then.
        let calling = if breaks { &[][..] } else { &people[..3] };
        let called = if parts { &[][..] } else { &people[3..6] };
        self.report.calls += calling.len() + called.len();
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(called, calling).await;
        let newcomer = self.newcomers.next();
        let looking = if breaks { Vec::new() } else { people[6..].to_vec() };
        self.office
            .ocs
            .ask(move |front_end| {
                newcomer.into_iter().for_each(|user| front_end.sign_in(user));
                for user in looking {
                    front_end.snapshot(user);
                }
            })
            .await;
        begun
    }

    async fn judge(&mut self, begun: Begun, healed_at: Instant) -> anyhow::Result<()> {
        self.all_is_well().await?;
        let shown = properties::calls_shown::judge(&mut self.office, begun).await?;
        self.report.judged(Property::CallsShown, shown);
        let took = properties::progress::judge(healed_at)?;
        self.report.judged(Property::Progress, 1);
        self.report.recovered_within = self.report.recovered_within.max(took);
        self.judge_messages().await?;
        self.are_here(self.steady..self.newcomers.start).await?;
        let asked = self.addresses.admin(Member::Node(1));
        properties::replicas::judge(asked, self.office.patience).await?;
        self.report.judged(Property::ReplicasEqual, 1);
        let kept = properties::sessions_kept::judge(&self.office, 0..self.steady).await?;
        self.report.judged(Property::SessionsKept, kept);
        self.calendars.renew(self.office.patience).await
    }

    async fn judge_messages(&mut self) -> anyhow::Result<()> {
        let (office, report) = (&self.office, &mut self.report);
        let answered = properties::answered_once::judge(office).await?;
        report.judged(Property::AnsweredOnce, answered);
        let commands = properties::commands_once::judge(office).await?;
        report.judged(Property::CommandsOnce, commands);
        let events = properties::events_in_order::judge(office).await?;
        report.judged(Property::EventsInOrder, events);
        let events = properties::own_events::judge(office).await?;
        report.judged(Property::OwnEvents, events);
        let messages = properties::well_formed::judge(office, &self.calendars).await?;
        report.judged(Property::WellFormed, messages);
        Ok(())
    }

    /// Who was refused, or lost the connection, asks again.
    pub(super) async fn are_here(&self, users: std::ops::Range<usize>) -> anyhow::Result<()> {
        let awaited = users.clone();
        let ask_again = move |front_end: &mut FrontEnd| {
            for user in users {
                if front_end.user(user).presence() != Presence::SignedIn {
                    sign_in_again(front_end, user);
                }
            }
        };
        let here = move |front_end: &FrontEnd| {
            awaited
                .clone()
                .all(|user| front_end.user(user).presence() == Presence::SignedIn)
        };
        self.office.wait_until_answered().await?;
        self.office.ocs.ask(ask_again).await;
        let ocs = &self.office.ocs;
        ocs.wait_until("the newcomers are signed in", self.office.patience, here)
            .await
    }

    async fn end(mut self) -> anyhow::Result<DayReport> {
        self.put_cas_right();
        let drills = self.disturbances.begin(now_ms(), None);
        self.rehearse().await.context("in the drills")?;
        let short_until = self.shorten_sessions().await?;
        self.disturbances.end(drills, now_ms());
        self.office.everyone_gets_a_snapshot().await?;
        self.office.every_phone_rings_and_stops().await?;
        self.calendars_are_right().await.context("in the evening")?;
        if let Some(until) = short_until {
            let drill = self.refresh_at_the_last_moment(until).await;
            drill.context("in the drills")?;
        }
        self.judge_messages().await?;
        self.judge_members().await?;
        let ocs = &self.office.ocs;
        self.report.requests = ocs.ask(|front_end| front_end.all_requests().count()).await;
        self.report.tolerated = ocs.ask(|front_end| front_end.tolerated()).await;
        self.report.commands = self.office.pbx().log().await.len();
        Ok(self.report)
    }

    /// Every calendar recovers, users are evened out, and then everything is in time.
    async fn calendars_are_right(&mut self) -> anyhow::Result<()> {
        let healed_at = environment::now();
        self.administrator.take_all_cas_back().await?;
        self.changes_are_kept(CALENDARS_RECOVER_WITHIN).await?;
        self.report.calendars_recovered_within = environment::now() - healed_at;
        self.disturbances.recovered(now_ms());
        self.calendars.watchers.ask(|crowd| crowd.delays(false)).await;
        let evened_out = Some(self.administrator.rebalance_cas());
        self.acted(evened_out).await?;
        let (addresses, cas) = (self.addresses, self.options.cas);
        let balanced =
            properties::cas_balanced::judge(&self.calendars, addresses, cas, CALENDARS_RECOVER_WITHIN)
                .await?;
        self.report.judged(Property::CasBalanced, balanced);
        self.meetings_are_shown().await?;
        let (disturbances, deeds) = (&self.disturbances, &self.deeds);
        let sticky = properties::cas_sticky::judge(&self.calendars, disturbances, deeds).await?;
        self.report.judged(Property::CasSticky, sticky);
        Ok(())
    }

    /// While all is well, meetings are entered, begin and end. A balancer stands between Exchange and the nodes from now
    /// on: whoever was subscribed before it is called back at another node.
    async fn meetings_are_shown(&mut self) -> anyhow::Result<()> {
        let detours = super::detours(self.addresses, self.options.nodes);
        self.calendars.backend.redirect_callbacks(detours).await;
        let (since_ms, since) = (now_ms(), properties::one_holder::since_now(&self.calendars).await);
        self.calendars.clear().await?;
        for user in self.calendars.people.clone() {
            // One half is in a meeting from now on, the other one's begins when it is known.
            let when = if user.is_multiple_of(2) { -1..18 } else { 10..21 };
            self.calendars.meet(user, when, Status::Busy).await?;
        }
        sleep(MEETINGS_LAST).await;
        let (calendars, disturbances) = (&self.calendars, &self.disturbances);
        let undisturbed =
            properties::edges_in_time::judge(calendars, disturbances, since_ms, now_ms()).await?;
        let both_of_each = u64::try_from(2 * calendars.people.len())?;
        ensure!(
            undisturbed >= both_of_each,
            "{undisturbed} turns were judged while all was well, not {both_of_each}"
        );
        let judged = properties::edges_in_time::judge(calendars, disturbances, 0, now_ms()).await?;
        self.report.judged(Property::EdgesInTime, judged);
        let kept = properties::subscriptions_kept::judge(&self.calendars, since).await?;
        self.report.judged(Property::SubscriptionsKept, kept);
        self.changes_are_kept(Duration::ZERO).await?;
        let held = properties::one_holder::judge(&self.calendars, self.addresses, since).await?;
        self.report.judged(Property::OneHolder, held);
        Ok(())
    }

    async fn changes_are_kept(&mut self, within: Duration) -> anyhow::Result<()> {
        let (addresses, nodes) = (self.addresses, self.options.nodes);
        let kept = properties::changes_kept::judge(&self.calendars, addresses, nodes, within).await?;
        self.report.judged(Property::ChangesKept, kept);
        Ok(())
    }

    async fn judge_members(&mut self) -> anyhow::Result<()> {
        let (addresses, nodes) = (self.addresses, self.options.nodes);
        let in_force = properties::settings_in_force::judge(&self.administrator, addresses, nodes).await?;
        self.report.judged(Property::SettingsInForce, in_force);
        let sizes = properties::bounded::Sizes {
            nodes,
            clients: self.options.users,
            calendars: self.options.calendars().len(),
            watchers: self.calendars.subscriptions(),
            cas: self.options.cas,
            log: self.options.log_bounds(),
        };
        let bounded = properties::bounded::judge(addresses, sizes).await?;
        self.report.judged(Property::Bounded, bounded);
        Ok(())
    }

    /// Everybody is ready, every node knows every node as live, and lb has every node in service.
    pub(super) async fn all_is_well(&self) -> anyhow::Result<()> {
        let end = environment::now() + self.office.patience;
        while let Err(error) = self.look_around().await {
            if environment::now() >= end {
                return Err(error.context("not everything is well again"));
            }
            sleep(LOOKED_AT_EVERY).await;
        }
        let back = |front_end: &FrontEnd| front_end.is_connected();
        let ocs = &self.office.ocs;
        ocs.wait_until("OCS is connected again", self.office.patience, back)
            .await
    }

    async fn look_around(&self) -> anyhow::Result<()> {
        let nodes = self.options.nodes;
        for member in (1..=nodes).map(Member::Node).chain([Member::Lb]) {
            let admin = self.addresses.admin(member).context("a member has one")?;
            let status = status_of(admin, "/readyz").await?;
            ensure!(status == 200, "{member} is not ready");
        }
        for id in 1..=nodes {
            let admin = self.addresses.admin(Member::Node(id)).context("a node has one")?;
            let cluster = get_from(admin, "/cluster").await?;
            let listed = cluster["nodes"].as_array().cloned().unwrap_or_default();
            let live = listed.iter().filter(|node| node["state"] == "live").count();
            ensure!(u64::try_from(live)? == nodes, "node{id} says {cluster}");
        }
        let front_end = self.addresses.metrics(Member::Lb).await?;
        let in_service = front_end.sum("tandem_lb_nodes_in_service", &[]);
        ensure!(
            in_service >= properties::number(nodes),
            "lb has {in_service} nodes in service"
        );
        Ok(())
    }
}

const LATECOMERS: usize = 2;
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
/// As the OCS probes, and a little.
const PROBED_WITHIN: Duration = Duration::from_secs(4);
/// A server that was gone is tried again after some seconds, at first; then subscriptions are made and calendars are read.
const CALENDARS_RECOVER_WITHIN: Duration = Duration::from_secs(120);
/// Until both kinds of meeting are over, and that has been told.
const MEETINGS_LAST: Duration = Duration::from_secs(34);
