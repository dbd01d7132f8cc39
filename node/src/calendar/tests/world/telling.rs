//! How Exchange tells a world's nodes of changes.

use super::*;
use crate::calendar::Callback;
use tandem_exchange::ews::Notification;

impl World {
    pub(super) fn tell(&mut self, told: Told) {
        match told {
            Told::Callback {
                user,
                attempt,
                notification,
            } if !self.exchange.push_is_blocked => {
                let called = self.called_node(&user);
                self.call(called, user, attempt, notification);
            }
            Told::Callback { .. } => {}
            Told::Stream {
                node,
                stream,
                notification,
            } => {
                let part = StreamPart::Notifications(vec![notification]);
                self.input(NodeId(node), Input::StreamPart { stream, part });
            }
        }
    }

    /// Exchange sends the subscription's status event to a node that does not own the user.
    pub(in crate::calendar) fn call_a_stranger(&mut self, subscription: &SubscriptionId) {
        let told = self.exchange.status_event(&subscription.0).unwrap();
        let Told::Callback {
            user,
            attempt,
            notification,
        } = told
        else {
            panic!("{told:?}");
        };
        let owner = self.state.calendar_owner(&user).unwrap();
        let stranger = *self.nodes.keys().find(|node| **node != owner).unwrap();
        self.call(stranger, user, attempt, notification);
    }

    fn call(&mut self, node: NodeId, user: String, attempt: u64, notification: Notification) {
        self.sequence += 1;
        let id = CallbackId(self.sequence);
        self.calling.insert(id, notification.subscription.clone());
        let callback = Callback {
            id,
            user,
            attempt,
            notifications: vec![Ok(notification)],
        };
        self.input(node, Input::CalledBack(callback));
    }

    fn called_node(&mut self, user: &str) -> NodeId {
        if !self.calls_any_node {
            return self.state.calendar_owner(user).unwrap();
        }
        let chosen = self.rng.random_range(0..self.nodes.len());
        *self.nodes.keys().nth(chosen).unwrap()
    }
}
