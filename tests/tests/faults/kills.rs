//! The leader is killed five times, and clients judge how long it takes: medians, on whatever machine this is.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Hub, Member, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, other};
use tokio::sync::mpsc;

use super::options;

const USERS: usize = 40;
const KILLS: usize = 5;

#[test]
fn the_median_of_five_kills_of_the_leader_is_short() {
    in_a_network_of_its_own(Needs::Nothing, kill_five_times);
}

/// What one kill came to, counted from the signal.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// A write that was asked for afterwards is acknowledged.
    commit: Duration,
    /// The front end's copy of the state says that the node is lost.
    lost_at_front_end: Duration,
    /// The first user whose session the dead node had is answered, and the last one.
    first_answer: Duration,
    last_answer: Duration,
}

async fn kill_five_times(hub: Hub) -> anyhow::Result<()> {
    let options = ClusterOptions {
        users: USERS,
        ..options(hub)
    };
    let mut scene = DiskScene::start(options).await?;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        let pauses = kill_the_leader(&mut scene).await?;
        println!("{pauses:?}");
        ensure!(pauses.last_answer < DEADLINE, "somebody waits: {pauses:?}");
        kills.push(pauses);
    }
    for (what, pause, most) in [
        ("next commit", median(&kills, |kill| kill.commit), COMMIT_MAX),
        (
            "loss known at lb",
            median(&kills, |kill| kill.lost_at_front_end),
            LOST_MAX,
        ),
        (
            "first answer",
            median(&kills, |kill| kill.first_answer),
            ANSWER_MAX,
        ),
    ] {
        println!("{what}: {pause:?} at the median");
        ensure!(pause <= most, "{what}: {pause:?} at the median, {most:?} at most");
    }
    scene.end().await
}

async fn kill_the_leader(scene: &mut DiskScene) -> anyhow::Result<Pauses> {
    scene.all_is_well().await?;
    let leader = scene.leading_node().await?;
    let successor = other(leader);
    let owned = users_owned_by(scene, leader).await?;
    let writes = Stream::start(scene, successor)?;
    let killed = Instant::now();
    scene.cluster.kill(leader).await?;
    let asked = owned.clone();
    scene
        .ocs
        .ask(move |front_end| {
            for user in asked {
                front_end.snapshot(user);
            }
        })
        .await;
    let (lost_at_front_end, commit) = tokio::try_join!(
        loss_at_front_end(scene, successor, leader),
        writes.first_after(killed)
    )?;
    scene.wait_until_answered().await?;
    let answers = answers_after(scene, killed, owned).await;
    let pauses = Pauses {
        commit: commit - killed,
        lost_at_front_end: lost_at_front_end - killed,
        first_answer: *answers.first().context("the dead node had no session")? - killed,
        last_answer: *answers.last().context("the dead node had no session")? - killed,
    };
    scene.cluster.restart(leader).await?;
    Ok(pauses)
}

/// The users whose sessions a node has now.
pub(super) async fn users_owned_by(scene: &DiskScene, node: Member) -> anyhow::Result<Vec<usize>> {
    let sessions = scene.cluster.get(node, "/sessions").await?;
    let owner = tandem_tests::scenario::name(node);
    let sessions = sessions.as_array().into_iter().flatten();
    let owned = sessions.filter(|session| session["owner"] == owner);
    let users = owned.filter_map(|session| session["user"].as_str()?.strip_prefix("user")?.parse().ok());
    Ok(users.collect())
}

/// When each of the answers came to what these users have asked since, in order.
async fn answers_after(scene: &DiskScene, since: Instant, users: Vec<usize>) -> Vec<Instant> {
    scene
        .ocs
        .ask(move |front_end| {
            let asked = users.iter().flat_map(|&user| front_end.user(user).requests());
            let asked = asked.filter(|request| request.sent_at >= since && request.succeeded());
            let mut answers: Vec<_> = asked.filter_map(|request| Some(request.answer()?.at)).collect();
            answers.sort_unstable();
            answers
        })
        .await
}

/// When the front end has applied as much as the successor had when it knew of the loss; what it waits for may be a little
/// more than the loss itself.
async fn loss_at_front_end(scene: &DiskScene, successor: Member, dead: Member) -> anyhow::Result<Instant> {
    let started = Instant::now();
    let dead = tandem_tests::scenario::name(dead);
    let applied = loop {
        let cluster = scene.cluster.get(successor, "/cluster").await?;
        let nodes = cluster["nodes"].as_array().into_iter().flatten();
        if nodes
            .into_iter()
            .any(|node| node["id"] == dead && node["state"] == "lost")
        {
            break cluster["last_applied"].as_f64().context("no index")?;
        }
        ensure!(
            started.elapsed() < DEADLINE,
            "{successor} does not notice the death"
        );
        tokio::time::sleep(POLL).await;
    };
    while scene
        .cluster
        .metrics(Member::Lb)
        .await?
        .sum("tandem_raft_applied_index", &[])
        < applied
    {
        ensure!(started.elapsed() < DEADLINE, "lb does not learn of the death");
        tokio::time::sleep(POLL).await;
    }
    Ok(Instant::now())
}

fn median(kills: &[Pauses], of: impl Fn(&Pauses) -> Duration) -> Duration {
    let mut pauses: Vec<_> = kills.iter().map(of).collect();
    pauses.sort_unstable();
    pauses[pauses.len() / 2]
}

/// Writes that begin one after the other without waiting for each other.
struct Stream {
    /// When each acknowledged write was asked for, and when it was acknowledged.
    acknowledged: mpsc::UnboundedReceiver<(Instant, Instant)>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    fn start(scene: &DiskScene, at: Member) -> anyhow::Result<Self> {
        let (sender, acknowledged) = mpsc::unbounded_channel();
        let (ledger, admin) = (scene.ledger.clone(), scene.cluster.admin(at)?);
        let task = tokio::spawn(async move {
            loop {
                let (ledger, sender) = (ledger.clone(), sender.clone());
                tokio::spawn(async move {
                    let asked = Instant::now();
                    if ledger.write_one(admin).await.is_ok() {
                        let _ = sender.send((asked, Instant::now()));
                    }
                });
                tokio::time::sleep(BREATH).await;
            }
        });
        Ok(Self { acknowledged, task })
    }

    /// When the first write was acknowledged that was asked for after `since`. Then it ends.
    async fn first_after(mut self, since: Instant) -> anyhow::Result<Instant> {
        let first = async {
            while let Some((asked, acknowledged)) = self.acknowledged.recv().await {
                if asked >= since {
                    return Some(acknowledged);
                }
            }
            None
        };
        let first = tokio::time::timeout(DEADLINE, first).await;
        self.task.abort();
        first
            .context("nothing is acknowledged after the death")?
            .context("nobody writes")
    }
}

const BREATH: Duration = Duration::from_millis(5);
const POLL: Duration = Duration::from_millis(5);
/// 10 to 40 ms are usual. Without the fast take-over it would be 844 at least, which must be noticed.
const COMMIT_MAX: Duration = Duration::from_millis(400);
const LOST_MAX: Duration = Duration::from_millis(400);
const ANSWER_MAX: Duration = Duration::from_secs(1);
