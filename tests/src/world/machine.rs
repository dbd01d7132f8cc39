//! One machine: a process that runs, is frozen or is gone, and what outlives it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use tandem_runtime::io::environment::files::Files as _;
use tandem_runtime::io::environment::simulated::Fault;
use tandem_runtime::io::environment::simulated::{Host, MachineId, Network};
use tokio::runtime::{Builder, RngSeed, Runtime};

/// Makes the process; called at every start.
pub(super) type Program = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = ()> + Send>>>;

pub(super) struct Machine {
    name: String,
    network: Network,
    host: Host,
    seed: u64,
    lives: u64,
    program: Program,
    running: Option<Runtime>,
    is_frozen: bool,
    /// Time that has passed while the process was frozen.
    missed: Duration,
    power_fails: Option<PowerFails>,
}

/// When the machine is to lose its power.
#[derive(Debug)]
enum PowerFails {
    /// So long after there are other files of the log than these.
    WithNextFile {
        known: BTreeSet<String>,
        after: Duration,
    },
    In(Duration),
}

impl Machine {
    /// The process runs from the next step on.
    pub(super) fn new(
        name: &str,
        network: &Network,
        addresses: &[IpAddr],
        seed: u64,
        program: Program,
    ) -> Self {
        let mut machine = Self {
            name: name.to_owned(),
            network: network.clone(),
            host: Host::new(network, addresses, seed, DISK_SYNC_MAX),
            seed,
            lives: 0,
            program,
            running: None,
            is_frozen: false,
            missed: Duration::ZERO,
            power_fails: None,
        };
        machine.start();
        machine
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn id(&self) -> MachineId {
        self.host.machine()
    }

    /// Lets time pass for the process, which does what it can in it.
    pub(super) fn step(&mut self, time: Duration) {
        let Some(runtime) = &self.running else { return };
        if self.is_frozen {
            self.missed += time;
            return;
        }
        self.host
            .enter(|| runtime.block_on(async { tokio::time::sleep(time).await }));
        self.power_fails = match self.power_fails.take() {
            Some(PowerFails::WithNextFile { known, after }) if self.log_files().is_subset(&known) => {
                Some(PowerFails::WithNextFile { known, after })
            }
            Some(PowerFails::WithNextFile { after, .. }) => Some(PowerFails::In(after)),
            Some(PowerFails::In(left)) if left > time => Some(PowerFails::In(left - time)),
            Some(PowerFails::In(_)) => {
                self.power_off();
                None
            }
            None => None,
        };
    }

    /// Starts the process unless it runs; the machine has power again.
    pub(super) fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        self.network.switch_on(self.id());
        self.host.forget_termination();
        self.lives += 1;
        (self.is_frozen, self.missed) = (false, Duration::ZERO);
        let seed = self
            .seed
            .wrapping_add(self.lives.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
            .build()
            .expect("a runtime without drivers can be built");
        let program = (self.program)();
        self.host.enter(|| drop(runtime.spawn(program)));
        self.running = Some(runtime);
    }

    /// SIGKILL: the kernel closes what the process had open, and the disk keeps what was written.
    pub(super) fn kill(&mut self) {
        let running = self.running.take();
        self.host.enter(|| drop(running));
    }

    /// The machine stops at once, and the disk keeps what was synced.
    pub(super) fn power_off(&mut self) {
        self.network.switch_off(self.id());
        self.kill();
        for disk in self.host.disks() {
            disk.crash();
        }
    }

    /// The machine stops so long after its process has begun the next file of its log.
    pub(super) fn power_off_with_next_file(&mut self, after: Duration) {
        let known = self.log_files();
        self.power_fails = Some(PowerFails::WithNextFile { known, after });
    }

    /// By their names, on all its disks.
    fn log_files(&self) -> BTreeSet<String> {
        let disks = self.host.disks();
        let names = disks.iter().flat_map(|disk| disk.list().unwrap_or_default());
        names
            .filter(|name| name.starts_with("log-") && !name.contains('.'))
            .collect()
    }

    /// SIGTERM.
    pub(super) fn terminate(&self) {
        self.host.terminate();
    }

    /// SIGSTOP.
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// SIGCONT: the process finds that time has passed.
    pub(super) fn thaw(&mut self) {
        self.is_frozen = false;
        let missed = std::mem::take(&mut self.missed);
        if let Some(runtime) = &self.running {
            self.host.enter(|| runtime.block_on(tokio::time::advance(missed)));
        }
    }

    pub(super) fn step_clock(&self, error_ms: i64) {
        self.host.set_wall_error_ms(error_ms);
    }

    pub(super) fn set_disk_fault(&self, fault: Option<Fault>) {
        for disk in self.host.disks() {
            disk.set_fault(fault);
        }
    }
}

/// A disk of a virtual machine.
const DISK_SYNC_MAX: Duration = Duration::from_millis(4);
