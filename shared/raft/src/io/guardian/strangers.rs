//! Naming those who answer in the name of a member and are not it, and telling this member's operator when it takes no part.

use std::mem::Discriminant;
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::NodeId;
use tandem_cluster::membership::{Introduction, Stranger};

use super::Guardian;

impl Guardian {
    /// Each at once and then once a minute, on one line, with the way out.
    pub(super) fn warn_of_strangers(&mut self, now: Instant) {
        let own = self.member.id();
        let introduction = self.member.introduction();
        if let Some((by, stranger)) = self.member.book.own_stranger() {
            if self.is_to_be_named(None, &introduction, &stranger, now) {
                tracing::error!(
                    %by, reason = %stranger,
                    "this member takes no part in the cluster: {}",
                    stranger.way_back(own)
                );
            }
        } else if let Some(by) = self.waits_to_be_taken_in()
            && self.is_to_be_named(None, &introduction, &Stranger::Newcomer, now)
        {
            tracing::warn!(
                %by,
                "this member's data directory is new to the cluster: it takes no part until you run \
                 `tandem-node cluster replace {own}`"
            );
        }
        for (id, present) in self.member.book.all_present() {
            if let Some(stranger) = present.stranger
                && self.is_to_be_named(Some(id), &present.introduction, &stranger, now)
            {
                tracing::warn!(member = %id, reason = %stranger, "a process that is not the member answers under its number");
            }
        }
    }

    fn is_to_be_named(
        &mut self,
        who: Option<NodeId>,
        introduction: &Introduction,
        stranger: &Stranger,
        now: Instant,
    ) -> bool {
        let subject = (*introduction, std::mem::discriminant(stranger));
        let named = self.upkeep.warned.get(&who);
        let is_due = named.is_none_or(|(named, at)| *named != subject || now >= *at + WARNED_EVERY);
        if is_due {
            self.upkeep.warned.insert(who, (subject, now));
        }
        is_due
    }
}

const WARNED_EVERY: Duration = Duration::from_secs(60);

/// One process and one kind of reason: whoever is still the same stranger is named once a minute.
pub(super) type Subject = (Introduction, Discriminant<Stranger>);
