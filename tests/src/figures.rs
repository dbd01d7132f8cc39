//! What a benchmark measured, by name: said when it is known, and once more in the last line.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Measures until it is done or the benchmark is interrupted, which still ends what it started, and removes its directories.
///
/// # Errors
/// When it fails, or is interrupted.
pub async fn until_interrupted(measured: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminated.recv() => bail!("it was terminated"),
        _ = interrupted.recv() => bail!("it was interrupted"),
        measured = measured => measured,
    }
}

/// Figures in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Figures(Vec<(&'static str, String)>);

impl Figures {
    pub fn count(&mut self, name: &'static str, value: usize) {
        self.add(name, value.to_string());
    }

    pub fn seconds(&mut self, name: &'static str, value: Duration) {
        self.add(name, format!("{:.1}", value.as_secs_f64()));
    }

    pub fn millis(&mut self, name: &'static str, value: Duration) {
        self.add(name, format!("{:.2}", value.as_secs_f64() * 1000.0));
    }

    pub fn percent(&mut self, name: &'static str, value: f64) {
        self.add(name, format!("{value:.1}"));
    }

    pub fn ratio(&mut self, name: &'static str, value: f64) {
        self.add(name, format!("{value:.2}"));
    }

    fn add(&mut self, name: &'static str, value: String) {
        println!("{name:<36} {value}");
        self.0.push((name, value));
    }

    /// Says the last line, with the figures named in `first` at its head, and what went wrong before it.
    pub fn conclude(self, measured: &anyhow::Result<()>, first: &[&str]) -> ExitCode {
        if let Err(error) = measured {
            eprintln!("\nThe benchmark failed: {error:#}");
        }
        println!("\n{}", self.led_by(first));
        match measured {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// With the figures named in `first` at the head, in that order.
    fn led_by(mut self, first: &[&str]) -> Self {
        let place = |name: &str| first.iter().position(|first| *first == name);
        self.0.sort_by_key(|(name, _)| place(name).unwrap_or(first.len()));
        self
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        formatter.write_str(&pairs.join(" "))
    }
}
