//! Whether the process is ready, and why not.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Why the process is not ready, by cause; ready when there is no cause left.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    reasons: Arc<watch::Sender<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Ready at once, until a cause is named.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a cause, or tells its latest detail.
    pub fn not_ready(&self, cause: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        self.reasons
            .send_if_modified(|reasons| reasons.insert(cause, detail.clone()) != Some(detail));
    }

    /// The cause is gone.
    pub fn resolved(&self, cause: &'static str) {
        self.reasons
            .send_if_modified(|reasons| reasons.remove(cause).is_some());
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.borrow().is_empty()
    }

    /// Cause and detail.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        self.reasons
            .borrow()
            .iter()
            .map(|(&cause, detail)| (cause, detail.clone()))
            .collect()
    }

    /// Returns once no cause is left.
    pub async fn ready(&self) {
        let mut reasons = self.reasons.subscribe();
        // The sender lives in `self`, so it cannot have gone.
        let _ = reasons.wait_for(BTreeMap::is_empty).await;
    }
}
