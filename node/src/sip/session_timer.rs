//! RFC 4028 from the side of a server that never refreshes: the client does, by re-INVITE or UPDATE.

/// What the client said about session timers in an INVITE or UPDATE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimerOffer {
    /// `Supported: timer` (or `Require: timer`).
    pub supported: bool,
    /// `Session-Expires`, seconds.
    pub session_expires_secs: Option<u32>,
    /// `Min-SE`, seconds.
    pub min_se_secs: Option<u32>,
}

impl TimerOffer {
    /// Reads the values of the four header fields; what cannot be read counts as absent.
    #[must_use]
    pub fn read<'a>(
        option_tags: impl IntoIterator<Item = &'a str>,
        session_expires: Option<&str>,
        min_se: Option<&str>,
    ) -> Self {
        Self {
            supported: option_tags
                .into_iter()
                .any(|tag| tag.eq_ignore_ascii_case("timer")),
            session_expires_secs: session_expires.and_then(delta_seconds),
            min_se_secs: min_se.and_then(delta_seconds),
        }
    }
}

/// What the session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerGrant {
    /// `Session-Expires: interval;refresher=uac` and `Require: timer`.
    Refreshed { interval_secs: u32 },
    /// The client cannot refresh: the answer says nothing of timers, and the session lives for a day.
    Idle,
    /// 422 with `Min-SE`.
    TooSmall { min_se_secs: u32 },
}

/// RFC 4028 §9: the server may shorten the client's interval, not below its own or the client's minimum.
#[must_use]
pub fn negotiate(offer: TimerOffer, configured_secs: u32) -> TimerGrant {
    if !offer.supported {
        return TimerGrant::Idle;
    }
    if offer
        .session_expires_secs
        .is_some_and(|secs| secs < SESSION_INTERVAL_SECS_MIN)
    {
        return TimerGrant::TooSmall {
            min_se_secs: SESSION_INTERVAL_SECS_MIN,
        };
    }
    let wanted = offer
        .session_expires_secs
        .map_or(configured_secs, |secs| secs.min(configured_secs));
    let floor = offer.min_se_secs.unwrap_or(0).max(SESSION_INTERVAL_SECS_MIN);
    TimerGrant::Refreshed {
        interval_secs: wanted.max(floor).min(INTERVAL_SECS_MAX),
    }
}

/// How long a session lives after its last refresh. `interval_secs` is 0 for a client without session timer.
#[must_use]
pub fn lifetime_ms(interval_secs: u32) -> u64 {
    let secs = if interval_secs == 0 {
        IDLE_SECS
    } else {
        interval_secs
    };
    u64::from(secs) * 1000
}

/// `1800;refresher=uac` → 1800.
fn delta_seconds(value: &str) -> Option<u32> {
    value.split(';').next()?.trim().parse().ok()
}

/// The client in the field refreshes 60 s before the end, so that 90 (RFC 4028's least) would leave it 30 s and
/// 60 would send it into a tight loop.
pub const SESSION_INTERVAL_SECS_MIN: u32 = 120;
/// An interval that a client asked for by Min-SE is granted up to a day.
const INTERVAL_SECS_MAX: u32 = 86_400;
/// A client that does not refresh is given up after a day.
const IDLE_SECS: u32 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_without_an_interval_of_its_own_gets_the_configured_one() {
        let offer = TimerOffer::read(["timer"], None, None);
        assert_eq!(
            negotiate(offer, 1800),
            TimerGrant::Refreshed { interval_secs: 1800 }
        );
    }

    #[test]
    fn a_shorter_wish_is_granted_and_a_longer_one_cut() {
        let short = TimerOffer::read(["replaces", "Timer"], Some("600;refresher=uac"), None);
        assert_eq!(
            negotiate(short, 1800),
            TimerGrant::Refreshed { interval_secs: 600 }
        );
        let long = TimerOffer::read(["timer"], Some("7200"), None);
        assert_eq!(
            negotiate(long, 1800),
            TimerGrant::Refreshed { interval_secs: 1800 }
        );
    }

    #[test]
    fn the_clients_minimum_lifts_the_interval() {
        let offer = TimerOffer::read(["timer"], Some("3600"), Some("2400"));
        assert_eq!(
            negotiate(offer, 1800),
            TimerGrant::Refreshed { interval_secs: 2400 }
        );
    }

    #[test]
    fn an_interval_below_the_minimum_is_refused() {
        let offer = TimerOffer::read(["timer"], Some("90"), None);
        assert_eq!(negotiate(offer, 1800), TimerGrant::TooSmall { min_se_secs: 120 });
    }

    #[test]
    fn a_client_without_timer_lives_for_a_day() {
        let offer = TimerOffer::read([], Some("60"), None);
        assert_eq!(negotiate(offer, 1800), TimerGrant::Idle);
        assert_eq!(lifetime_ms(0), 86_400_000);
    }
}
