//! How Exchange tells a world's nodes of changes.

use super::*;
use crate::calendar::Callback;

impl World {
    pub(super) fn tell(&mut self, told: Told) {
        match told {
            Told::Callback {
                user,
                attempt,
                notification,
            } if !self.exchange.push_is_blocked => {
                let called = self.called_node(&user);
                self.sequence += 1;
                let id = CallbackId(self.sequence);
                self.calling.insert(id, notification.subscription.clone());
                let callback = Callback {
                    id,
                    user,
                    attempt,
                    notifications: vec![Ok(notification)],
                };
                self.input(called, Input::CalledBack(callback));
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

    fn called_node(&mut self, user: &str) -> NodeId {
        if !self.calls_any_node {
            return self.state.calendar_owner(user).unwrap();
        }
        let chosen = self.rng.random_range(0..self.nodes.len());
        *self.nodes.keys().nth(chosen).unwrap()
    }
}
