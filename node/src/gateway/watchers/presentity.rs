//! Users who are watched: what is known of their presence, and who is to be told.

use tandem_cluster::SessionKey;

use crate::presence::{Composed, following};

use super::super::{Gateway, Now, Report, View};
use super::{EndOfSubscription, WatcherReport};

impl Gateway {
    /// Something has happened that a user's presence is made of.
    pub(in crate::gateway) fn presence_changed(&mut self, user: &str, view: View<'_>, now: Now) {
        if self.watchers.table.presentity(user).is_some() || self.publishes() {
            self.look_at_presence(user, view, now);
        }
    }

    /// So much has changed that nobody tells of single users.
    pub(in crate::gateway) fn all_presence_changed(&mut self, view: View<'_>, now: Now) {
        let users: Vec<String> = self.watchers.table.presentities().cloned().collect();
        for user in users {
            self.look_at_presence(&user, view, now);
        }
    }

    /// Watchers and publisher take in what the user's presence is now.
    pub(in crate::gateway) fn look_at_presence(&mut self, user: &str, view: View<'_>, now: Now) {
        let composed = following::current(view.state, view.phones, user, now.unix_ms);
        self.tell_watchers_of(user, composed);
        let is_kept_here = view.state.calendar_owner(user) == Some(self.config.node);
        self.publish_presence(user, composed, is_kept_here, now);
    }

    fn tell_watchers_of(&mut self, user: &str, composed: Composed) {
        let Some(presentity) = self.watchers.table.presentity_mut(user) else {
            return;
        };
        if presentity.composed.replace(composed) == Some(composed) {
            return;
        }
        let keys: Vec<SessionKey> = presentity.watchers.iter().cloned().collect();
        for key in keys {
            if self.known_watcher(&key).take_in(composed) {
                self.report(Report::Watcher(WatcherReport::NotifySuppressed));
            }
        }
    }

    /// A user who is no more in the directory has no presence.
    pub(in crate::gateway) fn end_watching_of_removed_users(&mut self, now: Now) {
        let table = &self.watchers.table;
        let removed = table
            .presentities()
            .filter(|user| self.directory.user(user).is_none());
        let presentities = removed.filter_map(|user| table.presentity(user));
        let keys: Vec<SessionKey> = presentities
            .flat_map(|presentity| presentity.watchers.iter().cloned())
            .collect();
        for key in keys {
            let watcher = self.known_watcher(&key);
            watcher.end(EndOfSubscription::NoSuchUser, now.instant);
        }
    }
}
