//! Requests of one transaction that differ in a header, beside as many of distinct transactions: processor time alone.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use tandem_tests::figures::Figures;
use tandem_tests::peers::stranger::Letter;

use crate::attacker::{Attacker, LINE, invites};
use crate::scene::{Scene, ratio};

/// What one kind of keys has cost, summed over the rounds.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    invites: Duration,
    cancels: Duration,
    invites_at_nodes: usize,
    invites_answered: usize,
    cancels_answered: usize,
}

pub(crate) async fn run(count: usize, figures: &mut Figures) -> anyhow::Result<()> {
    println!("\n{ROUNDS} times {count} INVITEs and {count} CANCELs of one transaction, and of as many");
    let scene = Scene::start().await?;
    // What is not counted: the first requests of all find a process that has not grown yet.
    attack(&scene, &invites(count), &mut Cost::default()).await?;
    let (mut equal, mut distinct) = (Cost::default(), Cost::default());
    for round in 0..ROUNDS {
        let mut turns = [
            (&mut equal, one_transaction(count)),
            (&mut distinct, invites(count)),
        ];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (cost, requests) in turns {
            attack(&scene, &requests, cost).await?;
        }
    }
    figures.count("equal_rounds", ROUNDS);
    figures.millis("equal_invites_cpu_ms", equal.invites);
    figures.millis("distinct_invites_cpu_ms", distinct.invites);
    figures.ratio(
        "equal_invites_cpu_vs_distinct",
        ratio(equal.invites, distinct.invites),
    );
    figures.count("equal_invites_answered", equal.invites_answered);
    figures.millis("equal_cancels_cpu_ms", equal.cancels);
    figures.millis("distinct_cancels_cpu_ms", distinct.cancels);
    figures.ratio(
        "equal_cancels_cpu_vs_distinct",
        ratio(equal.cancels, distinct.cancels),
    );
    figures.count("equal_cancels_answered", equal.cancels_answered);
    ensure!(
        (equal.invites_at_nodes, equal.invites_answered) == (ROUNDS, ROUNDS),
        "a transaction is to reach one node, and to get one final answer: {equal:?}"
    );
    let all = ROUNDS * count;
    ensure!(
        (distinct.invites_at_nodes, distinct.invites_answered) == (all, all)
            && distinct.cancels_answered == all,
        "every transaction is to get its answers: {distinct:?}"
    );
    scene.front_end.end().await
}

/// The INVITEs wait at the nodes until all of them, and all CANCELs, have been sent.
async fn attack(scene: &Scene, requests: &[Bytes], cost: &mut Cost) -> anyhow::Result<()> {
    let cpu = || Ok::<_, anyhow::Error>(scene.front_end.taken()?.cpu);
    let (invites, cancels) = (requests.concat(), cancels(requests));
    let mut attacker = Attacker::connect(scene.vip()).await?;
    scene.nodes.hold_invites();
    let begun = cpu()?;
    attacker.ask(&invites).await?;
    let invited = cpu()?;
    attacker.ask(&cancels).await?;
    let cancelled = cpu()?;
    cost.invites_at_nodes += scene.nodes.release_invites();
    attacker.ask(&[]).await?;
    let answered = cpu()?;
    cost.invites += (invited - begun) + (answered - cancelled);
    cost.cancels += cancelled - invited;
    cost.invites_answered += attacker.answers_to("INVITE");
    cost.cancels_answered += attacker.answers_to("CANCEL");
    Ok(())
}

/// INVITEs of one transaction, each with another Subject.
fn one_transaction(count: usize) -> Vec<Bytes> {
    let bytes = Letter::invite("attacker", LINE).write();
    let text = String::from_utf8_lossy(&bytes);
    (0..count)
        .map(|number| {
            text.replacen("Supported:", &format!("Subject: {number}\r\nSupported:"), 1)
                .into()
        })
        .collect()
}

/// A CANCEL for each of these INVITEs (RFC 3261 §9.1): all but the method is the same.
fn cancels(invites: &[Bytes]) -> Vec<u8> {
    let cancels = invites
        .iter()
        .map(|invite| String::from_utf8_lossy(invite).replace("INVITE", "CANCEL"));
    cancels.collect::<String>().into_bytes()
}

/// Odd, and more than one: the clock of processes counts hundredths of a second.
const ROUNDS: usize = 5;
