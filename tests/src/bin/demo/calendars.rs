//! The calendars' part of the demo: who is read where, an Exchange server that dies, and what presence says.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_tests::cluster::{Cluster, DEADLINE, mailbox};
use tandem_tests::peers::exchange::mail_store::{Appointment, Status};
use tandem_tests::peers::exchange::now_secs;
use tandem_tests::scenario::{CalendarScene, Places, Scene, ensure_even};

/// What the summary needs.
#[derive(Debug, Default)]
pub(crate) struct Calendars {
    users: usize,
    first: Option<Places>,
    death: Option<Death>,
    wrong: Option<usize>,
}

#[derive(Debug)]
struct Death {
    moved: usize,
    others_moved: usize,
    after: Places,
    healed: Duration,
}

impl Calendars {
    /// Every third user is in a meeting, some are away, some only perhaps busy.
    pub(crate) async fn fill(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let exchange = scene.cluster.exchange();
        self.users = exchange.ask(|servers| servers.store().mailboxes().len()).await;
        for user in 0..self.users {
            let status = match user % 6 {
                0 | 3 => Status::Busy,
                1 => Status::OutOfOffice,
                2 => Status::Tentative,
                _ => continue,
            };
            let meeting = Appointment::new(now_secs() - 600, now_secs() + 7200, status);
            exchange.create(&mailbox(user), meeting).await?;
        }
        Ok(())
    }

    pub(crate) async fn everyone_is_read(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let places = self.scene(scene).everyone_is_heard().await?;
        ensure_even("users by Exchange server", &places.counts(), SERVERS)?;
        self.first = Some(places);
        self.scene(scene).everyone_is_right().await
    }

    pub(crate) async fn a_server_dies(&mut self, scene: &mut Scene) -> anyhow::Result<()> {
        let before = self.scene(scene).everyone_is_heard().await?;
        let victims = before.at(VICTIM);
        let killed_at = Instant::now();
        scene.cluster.exchange_mut().kill(VICTIM).await;
        let calendars = self.scene(scene);
        let after = calendars.everyone_is_heard().await?;
        calendars.everyone_is_right().await?;
        let healed = killed_at.elapsed();
        let strayed = before
            .cas
            .iter()
            .filter(|(mailbox, cas)| !victims.contains(*mailbox) && after.cas.get(*mailbox) != Some(*cas));
        let others_moved = strayed.count();
        ensure!(
            others_moved == 0,
            "{others_moved} users of other servers were moved"
        );
        self.death = Some(Death {
            moved: victims.len(),
            others_moved,
            after,
            healed,
        });
        Ok(())
    }

    pub(crate) async fn everyone_is_right(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let calendars = self.scene(scene);
        calendars.everyone_is_right().await?;
        let mut wrong = 0;
        for node in calendars.live_nodes() {
            wrong += calendars.wrong_at(node, 0..self.users).await?.len();
        }
        let violations = scene
            .cluster
            .exchange()
            .ask(|servers| servers.violations().to_vec())
            .await;
        ensure!(violations.is_empty(), "Exchange saw: {violations:?}");
        self.wrong = Some(wrong);
        Ok(())
    }

    pub(crate) async fn summary(&self, scene: &Scene) {
        let violations = scene
            .cluster
            .exchange()
            .ask(|servers| servers.violations().len())
            .await;
        if let Some(first) = &self.first {
            println!("calendars over CAS    {}", shares(first));
        }
        if let Some(death) = &self.death {
            println!(
                "cas{} killed           {} users moved: {}; {} others moved; all right after {:.1?}",
                VICTIM + 1,
                death.moved,
                shares(&death.after),
                death.others_moved,
                death.healed
            );
        }
        if let Some(wrong) = self.wrong {
            println!(
                "presence              of {} users, wrong: {wrong}; Exchange saw wrong: {violations}",
                self.users
            );
        }
    }

    fn scene<'a>(&self, scene: &'a Scene) -> CalendarScene<&'a Cluster> {
        CalendarScene::of(&scene.cluster, self.users, DEADLINE)
    }
}

fn shares(places: &Places) -> String {
    let shares: Vec<_> = (0..SERVERS)
        .map(|cas| format!("cas{} {}", cas + 1, places.at(cas).len()))
        .collect();
    shares.join(", ")
}

const SERVERS: usize = 4;
/// Counted from 0: the second.
pub(crate) const VICTIM: usize = 1;
