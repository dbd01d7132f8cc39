//! What everybody says, with the simulated time and the machine: the history of a world.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

/// The lines of a history. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    now: Duration,
    machine: String,
    lines: Vec<String>,
}

impl Trace {
    /// Takes in what this thread says until the guard is dropped.
    pub(super) fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(Ear(self.clone()))
    }

    pub(super) fn at(&self, now: Duration) {
        self.lock().now = now;
    }

    pub(super) fn on(&self, machine: &str) {
        let mut lines = self.lock();
        lines.machine.clear();
        lines.machine.push_str(machine);
    }

    /// All lines so far, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Equal for equal histories.
    #[must_use]
    pub fn digest(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for line in &self.lock().lines {
            hasher.update(line.as_bytes());
        }
        hasher.finalize()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ear(Trace);

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // openraft says much, and with moments of the real clock in it.
        let is_foreign = !metadata.target().starts_with("tandem");
        metadata.is_event() && *metadata.level() <= Level::INFO && !is_foreign
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        let mut lines = self.0.lock();
        let line = format!(
            "{:>9.3} {:<7} {:<5} {}{}",
            lines.now.as_secs_f64(),
            lines.machine,
            event.metadata().level(),
            said.message,
            said.fields
        );
        lines.lines.push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes what is written");
    }
}
