//! Giving up large values where that holds up nobody: to free a million records takes a while.

use std::sync::Arc;
use std::time::Duration;

use tandem_runtime::io::environment::files::Files;

/// Gives the value up on a thread apart, once nobody else holds it, or after a second. Whoever held it last would have to free
/// it. Where no thread can be had it is given up here.
pub(super) fn release_apart<T: Send + Sync + 'static>(files: &Arc<dyn Files>, value: Arc<T>) {
    let pausing = files.clone();
    let job = Box::pin(async move {
        for _ in 0..LOOKS_MAX {
            if Arc::strong_count(&value) == 1 {
                break;
            }
            pausing.pause(PAUSE_BETWEEN_LOOKS).await;
        }
        drop(value);
    });
    drop(files.spawn("raft-release", job));
}

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_runtime::io::environment::simulated::SimulatedFiles;

    #[tokio::test(start_paused = true)]
    async fn a_value_is_freed_elsewhere_when_its_last_reader_has_let_it_go() {
        let files: Arc<dyn Files> = Arc::new(SimulatedFiles::new(1, Duration::ZERO));
        let value = Arc::new("large");
        let weak = Arc::downgrade(&value);
        let reader = value.clone();
        release_apart(&files, value);
        tokio::time::sleep(PAUSE_BETWEEN_LOOKS * 3).await;
        assert_eq!(weak.strong_count(), 2, "while somebody reads it");
        drop(reader);
        assert_eq!(weak.strong_count(), 1, "the reader does not free it");
        tokio::time::sleep(PAUSE_BETWEEN_LOOKS * 2).await;
        assert_eq!(weak.strong_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_held_for_long_is_left_to_its_holder() {
        let files: Arc<dyn Files> = Arc::new(SimulatedFiles::new(1, Duration::ZERO));
        let value = Arc::new("large");
        let reader = value.clone();
        release_apart(&files, value);
        tokio::time::sleep(PAUSE_BETWEEN_LOOKS * 110).await;
        assert_eq!(Arc::strong_count(&reader), 1);
    }
}
