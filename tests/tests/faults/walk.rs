//! A walk at random: one fault after the other under load, each put right and judged before the next.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Needs, in_a_network_of_its_own};
use tandem_tests::peers::communicator::Presence;
use tandem_tests::peers::front_end::FrontEnd;
use tandem_tests::scenario::{
    Begun, DiskScene, Fault, Load, MEMBERS, Outcome, Tally, Who, ensure_linearizable, every_case,
    sign_in_again,
};

use super::{begin_calls, judge, options};

/// They stay signed in, whatever happens; after them come those who sign in while something is wrong.
const STEADY: usize = 12;

#[test]
fn nothing_acknowledged_is_lost_on_a_walk_through_faults() {
    in_a_network_of_its_own(Needs::Nothing, |hub| {
        walk(options(hub), cycles(10, 100), |_, random| Fault::draw(random))
    });
}

#[test]
fn nothing_acknowledged_is_lost_on_a_walk_on_which_clocks_are_stepped() {
    in_a_network_of_its_own(Needs::SteppedClocks, |hub| {
        let options = ClusterOptions {
            stepped_clocks: MEMBERS.to_vec(),
            ..options(hub)
        };
        walk(options, cycles(2, 20), |cycle, random| {
            // Who has made sessions by a wrong clock dies next.
            if cycle.is_multiple_of(2) {
                Fault::draw_clock_step(random)
            } else {
                Fault::Killed { who: Who::Leader }
            }
        })
    });
}

/// How many, unless the environment says otherwise.
fn cycles(in_short_runs: usize, in_long_runs: usize) -> usize {
    number("TANDEM_CYCLES").unwrap_or_else(|| if every_case() { in_long_runs } else { in_short_runs })
}

async fn walk(
    options: ClusterOptions,
    cycles: usize,
    draw: impl Fn(usize, &mut StdRng) -> Fault,
) -> anyhow::Result<()> {
    let seed = number("TANDEM_SEED").unwrap_or_else(rand::random);
    println!("TANDEM_SEED={seed}, {cycles} cycles");
    let mut walk = Walk::start(options, cycles).await?;
    let mut random = StdRng::seed_from_u64(seed);
    for cycle in 0..cycles {
        let fault = draw(cycle, &mut random);
        let lasts = Duration::from_millis(random.random_range(500..2500));
        let walked = walk.cycle(cycle, &fault, lasts).await;
        walked.with_context(|| format!("TANDEM_SEED={seed}, cycle {cycle}: {fault}"))?;
    }
    walk.end().await
}

struct Walk {
    scene: DiskScene,
    load: Load,
    faults: BTreeMap<&'static str, usize>,
    longest_pause: Duration,
}

impl Walk {
    async fn start(options: ClusterOptions, cycles: usize) -> anyhow::Result<Self> {
        let options = ClusterOptions {
            users: STEADY + cycles,
            // Nobody refreshes a session here, and a long walk takes longer than sessions last.
            session_timer_secs: 24 * 60 * 60,
            // Members that were away are told the state as often as the log.
            log_bounds: Some((300, 50)),
            ..options
        };
        let mut scene = DiskScene::start_with(options, 0..STEADY).await?;
        scene.move_to_small_disk(DISK_BYTES).await?;
        scene.all_is_well().await?;
        let load = Load::start(&scene.cluster, &scene.ledger)?;
        Ok(Self {
            scene,
            load,
            faults: BTreeMap::new(),
            longest_pause: Duration::ZERO,
        })
    }

    async fn cycle(&mut self, cycle: usize, fault: &Fault, lasts: Duration) -> anyhow::Result<()> {
        println!("{cycle}: {fault} for {lasts:?}");
        *self.faults.entry(fault.kind()).or_default() += 1;
        self.load.excuse(!fault.leaves_a_quorum());
        let trouble = fault.begin(&mut self.scene).await?;
        let begun = begin_calls(&mut self.scene, fault).await;
        let newcomer = STEADY + cycle;
        self.scene
            .ocs
            .ask(move |front_end| front_end.sign_in(newcomer))
            .await;
        tokio::time::sleep(lasts).await;
        trouble.end(&mut self.scene).await?;
        self.judge(begun, newcomer).await
    }

    async fn judge(&mut self, begun: Begun, newcomer: usize) -> anyhow::Result<()> {
        let pause = judge(&mut self.scene, &self.load, begun).await?;
        ensure!(pause <= PAUSE_MAX, "nothing was acknowledged for {pause:?}");
        self.longest_pause = self.longest_pause.max(pause);
        self.sign_in_at_last(newcomer).await?;
        self.scene.nobody_signed_in_again(0..STEADY).await
    }

    /// Who was refused, or lost the connection, asks again.
    async fn sign_in_at_last(&self, newcomer: usize) -> anyhow::Result<()> {
        if !self.scene.signed_in().await.contains(&newcomer) {
            self.scene
                .ocs
                .ask(move |front_end| sign_in_again(front_end, newcomer))
                .await;
        }
        let signed_in = move |front_end: &FrontEnd| front_end.user(newcomer).presence() == Presence::SignedIn;
        let ocs = &self.scene.ocs;
        let waited = ocs
            .wait_until("the newcomer is signed in", DEADLINE, signed_in)
            .await;
        if waited.is_err() {
            let asked = move |front_end: &mut FrontEnd| format!("{:#?}", front_end.user(newcomer).requests());
            println!("the newcomer has asked: {}", ocs.ask(asked).await);
        }
        waited
    }

    async fn end(mut self) -> anyhow::Result<()> {
        let tally = self.load.end().await?;
        report(&self.faults, &tally, self.longest_pause);
        println!("{}", ensure_linearizable(&tally.history.operations())?);
        self.scene.all_is_well().await?;
        self.scene.everyone_gets_a_snapshot().await?;
        self.scene.nothing_was_wrong().await?;
        ensure!(tally.acknowledged > 0, "nothing was acknowledged");
        self.scene.cluster.dismiss();
        // Its data lies on a disk that goes first.
        for member in self.scene.cluster.members() {
            self.scene.cluster.kill(member).await?;
        }
        Ok(())
    }
}

fn report(faults: &BTreeMap<&'static str, usize>, tally: &Tally, longest_pause: Duration) {
    let faults: Vec<_> = faults
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    println!("faults: {}", faults.join(", "));
    let operations = tally.history.operations();
    let unknown = operations
        .iter()
        .filter(|operation| operation.outcome == Outcome::Unknown);
    println!(
        "{} writes acknowledged; {} operations on registers, {} of unknown outcome; longest pause {longest_pause:?}",
        tally.acknowledged,
        operations.len(),
        unknown.count()
    );
}

fn number<N: FromStr>(variable: &str) -> Option<N> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={value} is no number of that kind")))
}

/// A leader that is frozen is missed after a second, and the witness campaigns after two.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Room enough for all members to be content with it.
const DISK_BYTES: u64 = 192 << 20;
