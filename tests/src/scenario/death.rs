//! A node dies at the worst moment, and the judges look at what is left.

use std::time::Duration;

use anyhow::ensure;
use tandem_runtime::io::environment;

use super::{PlacedCall, Scene, first};
use crate::cluster::{Member, Signal};
use crate::peers::books::Stage;
use crate::peers::front_end::FrontEnd;
use crate::peers::ocs::phone_number;
use crate::peers::switch::CommandKind;

/// Who dies, and who is in the middle of something then.
#[derive(Debug, Clone)]
pub struct Death {
    pub victim: Member,
    /// Users whose sessions the victim owns: at least 100, signed in.
    pub owned: Vec<usize>,
    /// Users that are not signed in; they will be signing in.
    pub newcomers: Vec<usize>,
}

/// What was going on, and how long the clients had to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeathReport {
    pub calls_up: usize,
    /// Unanswered at the victim when it died, by lb's own table.
    pub unanswered_invites: usize,
    pub unanswered_infos: usize,
    /// Of any request that was unanswered at the kill, or sent afterwards.
    pub longest_pause: Duration,
}

/// The calls of a death, by what happens to them while the victim is frozen.
#[derive(Debug)]
struct Calls {
    /// Just go on.
    up: Vec<PlacedCall>,
    /// Ring; the client's AnswerCall lies unread at the victim.
    ringing: Vec<PlacedCall>,
    /// Up; the client's ClearConnection lies unread at the victim.
    clearing: Vec<PlacedCall>,
    /// Up; the far end hangs up and nobody is there to hear it.
    ended: Vec<PlacedCall>,
    /// Executed by the PBX; the answer never comes.
    made: Vec<PlacedCall>,
    /// Begin to ring while nobody is there to hear it.
    missed: Vec<PlacedCall>,
}

impl Scene {
    /// Freezes the victim with requests inside, kills it, and asks every client and the PBX what they saw.
    pub async fn kill_and_judge(&mut self, death: Death) -> anyhow::Result<DeathReport> {
        let owned = &death.owned;
        ensure!(owned.len() >= 100, "only {} sessions would die", owned.len());
        let mut calls = self.set_up_calls(owned).await?;
        self.leave_commands_unanswered(&mut calls, &owned[80..95]).await?;
        let calls_up = calls.up.len() + calls.clearing.len() + calls.ended.len();
        ensure!(calls_up >= 100, "only {calls_up} calls are up");

        self.cluster.signal(death.victim, Signal::Stop)?;
        self.send_into_the_void(&calls, &death).await?;
        let (unanswered_invites, unanswered_infos) = self.wait_for_pending(death.victim).await?;
        self.meanwhile_at_the_pbx(&mut calls, &owned[40..50]).await?;
        let killed_at = environment::now();
        self.cluster.kill(death.victim).await?;

        self.judge(&calls, &death).await?;
        let longest_pause = self
            .ocs
            .ask(move |front_end| front_end.longest_wait(killed_at))
            .await;
        self.end_all_calls(calls).await?;
        self.every_phone_rings_and_stops().await?;
        self.everyone_gets_a_snapshot().await?;
        self.verdict().await?;
        Ok(DeathReport {
            calls_up,
            unanswered_invites,
            unanswered_infos,
            longest_pause,
        })
    }

    async fn set_up_calls(&mut self, owned: &[usize]) -> anyhow::Result<Calls> {
        let mut up = self.put_incoming_calls_up(&owned[..60]).await?;
        up.extend(self.put_outgoing_calls_up(&owned[60..100]).await?);
        let ringing = self.ring(&owned[..20]).await?;
        let ended = up.drain(..10).collect();
        let clearing = up.drain(..10).collect();
        Ok(Calls {
            up,
            ringing,
            clearing,
            ended,
            made: Vec::new(),
            missed: Vec::new(),
        })
    }

    /// MakeCall is executed at the PBX and answered after the end of the story.
    async fn leave_commands_unanswered(&mut self, calls: &mut Calls, users: &[usize]) -> anyhow::Result<()> {
        self.pbx().set_answer_delay(Duration::from_secs(3600)).await;
        for &user in users {
            let far_end = self.unused_number();
            let number = far_end.clone();
            self.ocs
                .ask(move |front_end| front_end.make_call(user, &number))
                .await;
            calls.made.push(PlacedCall {
                user,
                call: String::new(),
                far_end,
            });
        }
        let numbers: Vec<_> = calls.made.iter().map(|placed| placed.far_end.clone()).collect();
        let executed = move |switch: &crate::peers::switch::Switch| {
            let called = |number: &String| {
                switch
                    .log()
                    .iter()
                    .any(|command| command.executed && command.argument == *number)
            };
            numbers.iter().all(called)
        };
        self.pbx()
            .wait_until("the PBX has executed the commands", self.patience, executed)
            .await?;
        self.pbx().set_answer_delay(Duration::ZERO).await;
        Ok(())
    }

    /// Requests of every kind, while the victim is frozen.
    async fn send_into_the_void(&self, calls: &Calls, death: &Death) -> anyhow::Result<()> {
        let (newcomers, asking) = (death.newcomers.clone(), death.owned[50..90].to_vec());
        self.ocs
            .ask(move |front_end| {
                newcomers.into_iter().for_each(|user| front_end.sign_in(user));
                for user in asking {
                    front_end.snapshot(user);
                }
            })
            .await;
        for placed in &calls.ringing {
            self.answer_by_client(placed).await?;
        }
        for placed in &calls.clearing {
            self.clear_by_client(placed).await?;
        }
        Ok(())
    }

    /// lb's table holds INVITEs and INFOs for the victim.
    async fn wait_for_pending(&self, victim: Member) -> anyhow::Result<(usize, usize)> {
        let Member::Node(id) = victim else {
            anyhow::bail!("{victim} is no node")
        };
        let node = format!("n{id}");
        let pending = |metrics: &crate::cluster::Metrics, method: &str| {
            metrics.sum(
                "tandem_lb_pending_requests",
                &[("node", &node), ("method", method)],
            )
        };
        let held = self
            .cluster
            .wait_for_metrics(
                Member::Lb,
                "unanswered INVITEs and INFOs are in lb's table",
                |metrics| pending(metrics, "INVITE") >= 1.0 && pending(metrics, "INFO") >= 20.0,
            )
            .await?;
        Ok((whole(pending(&held, "INVITE")), whole(pending(&held, "INFO"))))
    }

    /// Nobody watches these calls end and begin.
    async fn meanwhile_at_the_pbx(&mut self, calls: &mut Calls, called: &[usize]) -> anyhow::Result<()> {
        for placed in &calls.ended {
            let phone = phone_number(placed.user);
            ensure!(
                self.pbx().far_end_hangs_up(&placed.call, &phone).await,
                "{placed:?} is over already"
            );
        }
        for &user in called {
            let far_end = self.unused_number();
            let call = self.pbx().place_call(&far_end, &phone_number(user)).await;
            calls.missed.push(PlacedCall { user, call, far_end });
        }
        Ok(())
    }

    async fn judge(&self, calls: &Calls, death: &Death) -> anyhow::Result<()> {
        self.wait_until_answered().await?;
        self.no_opening_failed(death).await?;
        // First of all: a request that failed is why a call below is not what it should be.
        self.only_interrupted_commands_failed(&calls.made).await?;
        self.everyone_gets_a_snapshot().await?;
        self.wait_for_stage(&calls.ended, Stage::Cleared).await?;
        self.wait_for_stage(&calls.clearing, Stage::Cleared).await?;
        self.wait_for_stage(&calls.missed, Stage::Delivered).await?;
        self.wait_for_stage(&calls.ringing, Stage::Established).await?;
        self.wait_for_stage(&calls.made, Stage::Made).await?;
        self.only_interrupted_commands_failed(&calls.made).await
    }

    async fn no_opening_failed(&self, death: &Death) -> anyhow::Result<()> {
        let newcomers = death.newcomers.clone();
        let signed_in = move |front_end: &FrontEnd| {
            newcomers
                .iter()
                .all(|&user| super::office::is_signed_in(front_end, user))
        };
        self.ocs
            .wait_until("the newcomers are signed in", self.patience, signed_in)
            .await
    }

    /// A MakeCall whose answer died with the node may be answered with a CSTA error, nothing else may fail.
    async fn only_interrupted_commands_failed(&self, made: &[PlacedCall]) -> anyhow::Result<()> {
        let users: Vec<_> = made.iter().map(|placed| placed.user).collect();
        let failures = self
            .ocs
            .ask(move |front_end| {
                let excused = |name: &str, sent: &crate::peers::books::SentRequest| {
                    let is_made = users
                        .iter()
                        .any(|&user| front_end.user(user).identity.user == name);
                    let clear = sent.answer().is_some_and(|answer| answer.csta_error().is_some());
                    is_made && sent.service == "MakeCall" && clear
                };
                let failed = front_end
                    .all_requests()
                    .filter(|(user, sent)| !sent.succeeded() && !excused(&user.identity.user, sent));
                failed
                    .map(|(user, sent)| {
                        format!("{}: {} {:?}", user.identity.user, sent.service, sent.outcome)
                    })
                    .collect::<Vec<_>>()
            })
            .await;
        ensure!(
            failures.is_empty(),
            "{} requests failed: {}",
            failures.len(),
            first(&failures)
        );
        Ok(())
    }

    /// Everything that is still up at the PBX ends, and every client hears it.
    async fn end_all_calls(&self, calls: Calls) -> anyhow::Result<()> {
        let mut made = calls.made;
        for placed in &mut made {
            placed.call = self.call_to(&placed.far_end).await.unwrap_or_default();
        }
        let rest = [calls.up, calls.ringing, calls.missed, made].concat();
        self.far_ends_hang_up(&rest).await
    }

    /// How many commands of each kind the PBX has executed; for the summary.
    pub async fn commands_executed(&self) -> Vec<(CommandKind, usize)> {
        let log = self.pbx().log().await;
        let kinds = [
            CommandKind::MakeCall,
            CommandKind::AnswerCall,
            CommandKind::ClearConnection,
        ];
        kinds
            .map(|kind| {
                (
                    kind,
                    log.iter()
                        .filter(|command| command.executed && command.kind == kind)
                        .count(),
                )
            })
            .to_vec()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge that counts requests"
)]
fn whole(value: f64) -> usize {
    value as usize
}
