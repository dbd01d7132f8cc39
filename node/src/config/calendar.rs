//! `[calendar]`, and what `[exchange]` says of the patience with a gateway: what holds while the cluster's settings of
//! the same names say nothing else.

use tandem_runtime::config::Section;

use super::{millis, secs};
use crate::calendar::{CalendarSettings, Delivery};

pub(super) fn read(section: &mut Section, has_push: bool) -> CalendarSettings {
    let default = CalendarSettings::default();
    let delivery = if has_push {
        section.choice("delivery", DELIVERIES)
    } else {
        section.choice("delivery", DELIVERIES_WITHOUT_PUSH)
    };
    CalendarSettings {
        delivery,
        status_frequency: section.number_or("status_frequency_minutes", default.status_frequency, 1..=1440),
        spread_secs: section.number_or("spread_secs", default.spread_secs, 0..=59),
        moves_per_second: section.number_or("moves_per_second", default.moves_per_second, 1..=10_000),
        window: section.duration_or("window_secs", default.window, secs(3600, 30 * 86_400)),
        refresh_interval: section.duration_or("refresh_secs", default.refresh_interval, secs(60, 86_400)),
        sweep_interval: section.duration_or("sweep_secs", default.sweep_interval, secs(5, 86_400)),
        pull_interval: section.duration_or("pull_secs", default.pull_interval, secs(1, 3600)),
        stream_group_max: section.number_or("stream_group", default.stream_group_max, 1..=200),
        ..default
    }
}

/// Exchange Timeout, Exchange Queue and Exchange Threads (CAL-10).
pub(super) fn read_patience(section: &mut Section, settings: &mut CalendarSettings) {
    settings.request_timeout =
        section.duration_or("timeout_ms", settings.request_timeout, millis(500, 600_000));
    settings.queue_max = section.number_or("queue", settings.queue_max, 1..=1_000_000);
    settings.concurrency_max = section.number_or("threads_max", settings.concurrency_max, 1..=256);
    let threads = settings.concurrency.min(settings.concurrency_max);
    settings.concurrency = section.number_or("threads", threads, 1..=settings.concurrency_max);
}

const DELIVERIES: &[(&str, Delivery)] = &[
    ("push_first", Delivery::PushFirst),
    ("streaming_first", Delivery::StreamingFirst),
    ("push_only", Delivery::PushOnly),
    ("streaming_only", Delivery::StreamingOnly),
    ("pull", Delivery::Pull),
];
/// Nothing listens for callbacks.
const DELIVERIES_WITHOUT_PUSH: &[(&str, Delivery)] = &[
    ("streaming_only", Delivery::StreamingOnly),
    ("pull", Delivery::Pull),
];
