//! The machines of the world and the ways between them: what a scenario does to them.

use std::net::IpAddr;
use std::time::Duration;

use super::state::{FIRST_EPHEMERAL_PORT, Machine};
use super::{MachineId, Network};

impl Network {
    pub(in crate::io::environment::simulated) fn add_machine(&self, addresses: &[IpAddr]) -> MachineId {
        let mut net = self.lock();
        let id = MachineId(u32::try_from(net.machines.len()).unwrap_or(u32::MAX));
        for address in addresses {
            net.by_address.insert(*address, id);
        }
        let machine = Machine {
            addresses: addresses.to_vec(),
            is_on: true,
            next_port: FIRST_EPHEMERAL_PORT,
        };
        net.machines.insert(id, machine);
        id
    }

    /// A host name that everybody resolves alike.
    pub fn name(&self, name: &str, address: IpAddr) {
        self.lock().names.insert(name.to_owned(), address);
    }

    pub(in crate::io::environment::simulated) fn address_of(&self, name: &str) -> Option<IpAddr> {
        self.lock().names.get(name).copied()
    }

    /// Nothing arrives any more that `from` sends to `to`, until the way is whole again.
    pub fn cut(&self, from: MachineId, to: MachineId) {
        self.lock().cuts.insert((from, to));
    }

    /// The way is whole: what was sent meanwhile arrives, in order.
    pub fn heal(&self, from: MachineId, to: MachineId) {
        let mut net = self.lock();
        net.cuts.remove(&(from, to));
        if !net.machines.get(&to).is_some_and(|machine| machine.is_on) {
            return;
        }
        for segment in net.held.remove(&(from, to)).unwrap_or_default() {
            net.send_again(segment);
        }
    }

    /// Everything to and from a machine takes longer by so much; zero: no longer.
    pub fn slow_down(&self, machine: MachineId, by: Duration) {
        self.lock().slow.insert(machine, by);
    }

    /// The machine loses its power: it says nothing more to anybody, and what it would have sent again is gone with its
    /// memory. Its process is to be dropped afterwards.
    pub fn switch_off(&self, machine: MachineId) {
        let mut net = self.lock();
        net.held.retain(|(from, _), _| *from != machine);
        if let Some(machine) = net.machines.get_mut(&machine) {
            machine.is_on = false;
        }
    }

    /// The machine has power again. It knows nothing of its connections: what still comes for them is answered with a
    /// reset.
    pub fn switch_on(&self, machine: MachineId) {
        let mut net = self.lock();
        if let Some(machine) = net.machines.get_mut(&machine) {
            machine.is_on = true;
        }
        let (held, cuts) = (&net.held, &net.cuts);
        let ways = held.keys().filter(|way| way.1 == machine && !cuts.contains(way));
        let ways: Vec<_> = ways.copied().collect();
        for way in ways {
            for segment in net.held.remove(&way).unwrap_or_default() {
                net.send_again(segment);
            }
        }
    }
}
