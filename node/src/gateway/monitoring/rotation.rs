//! Which CTI connections are in service, and whose turn it is to get the next session (RCC-4).

use crate::cti::CtiConnectionId;

#[derive(Debug)]
pub(super) struct Rotation {
    in_service: Vec<bool>,
    /// Where the round robin looks next.
    next: usize,
}

impl Rotation {
    /// Of so many connections, none of which is in service yet.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            in_service: vec![false; connections],
            next: 0,
        }
    }

    /// The next connection in service, in configured order.
    pub(super) fn next_in_service(&mut self) -> Option<CtiConnectionId> {
        let count = self.in_service.len();
        let chosen = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|&index| self.in_service[index])?;
        self.next = (chosen + 1) % count;
        Some(CtiConnectionId(chosen))
    }

    pub(super) fn is_in_service(&self, connection: CtiConnectionId) -> bool {
        self.in_service.get(connection.0).copied().unwrap_or(false)
    }

    pub(super) fn set(&mut self, connection: CtiConnectionId, in_service: bool) {
        if let Some(flag) = self.in_service.get_mut(connection.0) {
            *flag = in_service;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rotation: &mut Rotation, count: usize) -> Vec<Option<usize>> {
        let turns = (0..count).map(|_| rotation.next_in_service());
        turns.map(|turn| turn.map(|connection| connection.0)).collect()
    }

    #[test]
    fn connections_take_turns_in_configured_order_and_those_out_of_service_are_left_out() {
        let mut rotation = Rotation::new(3);
        assert_eq!(rotation.next_in_service(), None);
        for connection in 0..3 {
            rotation.set(CtiConnectionId(connection), true);
        }
        assert_eq!(turns(&mut rotation, 4), [Some(0), Some(1), Some(2), Some(0)]);
        rotation.set(CtiConnectionId(1), false);
        assert_eq!(turns(&mut rotation, 3), [Some(2), Some(0), Some(2)]);
        assert!(!rotation.is_in_service(CtiConnectionId(1)));
        assert!(
            !rotation.is_in_service(CtiConnectionId(3)),
            "there is no such one"
        );
    }
}
