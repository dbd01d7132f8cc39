//! Calls that begin while something is wrong, and are judged when it is right again.

use anyhow::ensure;

use super::{Office, PlacedCall, first};
use crate::peers::books::Stage;
use crate::peers::communicator::Tolerance;
use crate::peers::front_end::FrontEnd;
use crate::peers::ocs::phone_number;
use crate::peers::switch::CommandKind;

/// Calls of which nobody has waited for anything yet.
#[derive(Debug)]
pub struct Begun {
    /// Phones ring.
    incoming: Vec<PlacedCall>,
    /// Clients have asked for calls to these numbers: the user, his request, the number.
    asked: Vec<(usize, usize, String)>,
}

impl Office {
    /// Somebody calls some users, and some users call somebody.
    pub async fn begin_calls(&mut self, called: &[usize], calling: &[usize]) -> Begun {
        let mut incoming = Vec::new();
        for &user in called {
            let far_end = self.unused_number();
            let call = self.pbx().place_call(&far_end, &phone_number(user)).await;
            incoming.push(PlacedCall { user, call, far_end });
        }
        let numbers: Vec<_> = calling.iter().map(|&user| (user, self.unused_number())).collect();
        let asked = self
            .ocs
            .ask(move |front_end| {
                let ask =
                    |(user, number): (usize, String)| (user, front_end.make_call(user, &number), number);
                numbers.into_iter().map(ask).collect()
            })
            .await;
        Begun { incoming, asked }
    }

    /// Every client has heard of its call, every command was carried out once, and everybody hears the end.
    pub async fn end_calls(&mut self, begun: Begun) -> anyhow::Result<()> {
        self.wait_until_answered().await?;
        self.wait_for_stage(&begun.incoming, Stage::Delivered).await?;
        self.carried_out_once(&begun).await?;
        self.everyone_gets_a_snapshot().await?;
        for (user, _, number) in &begun.asked {
            if let Some(call) = self.call_to(number).await {
                self.pbx().far_end_hangs_up(&call, &phone_number(*user)).await;
            }
        }
        self.far_ends_hang_up(&begun.incoming).await?;
        let users: Vec<_> = begun.asked.into_iter().map(|(user, ..)| user).collect();
        let over = move |front_end: &FrontEnd| {
            users
                .iter()
                .all(|&user| front_end.user(user).calls().live().next().is_none())
        };
        let patience = self.patience;
        self.ocs.wait_until("all calls are over", patience, over).await?;
        self.tolerate(Tolerance::Nothing).await;
        self.everyone_gets_a_snapshot().await
    }

    /// What is no violation until further notice.
    pub async fn tolerate(&self, tolerance: Tolerance) {
        self.ocs.ask(move |front_end| front_end.tolerate(tolerance)).await;
    }

    /// A call that a client was promised was made once; one that it was refused was made once at most.
    async fn carried_out_once(&self, begun: &Begun) -> anyhow::Result<()> {
        let asked = begun.asked.clone();
        let promised = self
            .ocs
            .ask(move |front_end| {
                let promised = |(user, request, number): (usize, usize, String)| {
                    (number, front_end.user(user).requests()[request].succeeded())
                };
                asked.into_iter().map(promised).collect::<Vec<_>>()
            })
            .await;
        let log = self.pbx().log().await;
        let mut wrong = Vec::new();
        for (number, promised) in promised {
            let made = log.iter().filter(|command| {
                command.executed && command.kind == CommandKind::MakeCall && command.argument == number
            });
            let made = made.count();
            if made > 1 || promised && made == 0 {
                wrong.push(format!("{number}, promised: {promised}, was called {made} times"));
            }
        }
        ensure!(wrong.is_empty(), "{}", first(&wrong));
        Ok(())
    }
}
