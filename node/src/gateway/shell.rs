//! How a gateway is fed: by the driver (`io/driver.rs`) in production, and by a bench in tests.

use std::collections::VecDeque;

use super::{Input, Output};

/// What stands around a gateway: it knows the state and the time, and carries out what the gateway says.
pub trait Shell {
    /// Has the gateway handle one input, in view of the state and the time of this moment.
    fn handle(&mut self, input: Input) -> Vec<Output>;

    /// Carries out one output. Returns what came of it at once, if that is to be taken in.
    fn perform(&mut self, output: Output) -> Option<Input>;

    /// Has the gateway take in the input, and then whatever comes at once of carrying out what it says. All outputs of
    /// an input are carried out before the next one is handled.
    fn take_in(&mut self, input: Input) {
        let (mut next, mut follow_ups) = (Some(input), VecDeque::new());
        while let Some(input) = next {
            for output in self.handle(input) {
                follow_ups.extend(self.perform(output));
            }
            next = follow_ups.pop_front();
        }
    }
}
