//! Users who are watched: what is known of their presence, and who is to be told.

use tandem_shared::cluster::SessionKey;

use crate::presence::Composed;

use super::super::{Gateway, Now, Output, Report};
use super::{EndOfSubscription, WatcherReport};

impl Gateway {
    /// Something has happened that a user's presence is made of.
    pub(in crate::gateway) fn presence_changed(&mut self, user: &str) {
        if self.watchers.table.presentity(user).is_some() {
            self.read_presence(user);
        } else if self.publishes() {
            let user = user.to_owned();
            self.outputs.push(Output::ReadPresence { user });
        }
    }

    /// So much has changed that nobody tells of single users.
    pub(in crate::gateway) fn all_presence_changed(&mut self) {
        let users: Vec<String> = self.watchers.table.presentities().cloned().collect();
        for user in users {
            self.read_presence(&user);
        }
    }

    /// One question at a time; what is read is as new as the answer.
    pub(super) fn read_presence(&mut self, user: &str) {
        let Some(presentity) = self.watchers.table.presentity_mut(user) else {
            return;
        };
        if !std::mem::replace(&mut presentity.is_being_read, true) {
            self.outputs.push(Output::ReadPresence {
                user: user.to_owned(),
            });
        }
    }

    pub(in crate::gateway) fn presence_read(&mut self, user: &str, composed: Composed) {
        let Some(presentity) = self.watchers.table.presentity_mut(user) else {
            return;
        };
        presentity.is_being_read = false;
        if presentity.composed.replace(composed) == Some(composed) {
            return;
        }
        let keys: Vec<SessionKey> = presentity.watchers.iter().cloned().collect();
        for key in keys {
            if let Some(watcher) = self.watcher_mut(&key)
                && watcher.take_in(composed)
            {
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
            if let Some(watcher) = self.watcher_mut(&key) {
                watcher.end(EndOfSubscription::NoSuchUser, now.instant);
            }
        }
    }
}
