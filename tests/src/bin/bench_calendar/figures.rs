//! What was measured, by name.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<(&'static str, String)>);

impl Figures {
    /// Says it now, and once more in the last line.
    pub(crate) fn count(&mut self, name: &'static str, value: usize) {
        self.add(name, value.to_string());
    }

    pub(crate) fn seconds(&mut self, name: &'static str, value: Duration) {
        self.add(name, format!("{:.1}", value.as_secs_f64()));
    }

    pub(crate) fn percent(&mut self, name: &'static str, value: f64) {
        self.add(name, format!("{value:.1}"));
    }

    fn add(&mut self, name: &'static str, value: String) {
        println!("{name:<36} {value}");
        self.0.push((name, value));
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
