//! The gateway with everything around it played by the test: inputs in, outputs compared.

mod adoption;
#[cfg(test)]
mod bench;
mod calls;
mod cti_managers;
mod following;
mod handover;
mod opening;
mod pairs;
mod publishing;
mod resilience;
mod services;
mod torture;
mod watchers;
mod watching;
