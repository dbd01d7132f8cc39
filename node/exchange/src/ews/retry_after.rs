//! How long a server asks us to wait.

use std::time::{Duration, UNIX_EPOCH};

/// RFC 9110 §10.2.3, both forms: seconds, or a date. `now` is in Unix seconds; a date that has passed is zero.
#[must_use]
pub fn parse_retry_after(value: &str, now: i64) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.parse() {
        Ok(seconds) => seconds,
        Err(_) => seconds_until(value, now)?,
    };
    Some(bounded(Duration::from_secs(seconds)))
}

fn seconds_until(date: &str, now: i64) -> Option<u64> {
    let date = httpdate::parse_http_date(date).ok()?;
    let at = date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Some(at.saturating_sub(u64::try_from(now).unwrap_or(0)))
}

/// `BackOffMilliseconds`.
pub(super) fn parse_back_off(milliseconds: &str) -> Option<Duration> {
    let milliseconds = milliseconds.trim().parse().ok()?;
    Some(bounded(Duration::from_millis(milliseconds)))
}

fn bounded(wait: Duration) -> Duration {
    wait.min(BACK_OFF_MAX)
}

/// The longest wait, whatever the server asks for.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let nine = 1_795_338_000;
        let parse = |value| parse_retry_after(value, nine);
        assert_eq!(parse(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(
            parse("Sun, 22 Nov 2026 09:01:30 GMT"),
            Some(Duration::from_secs(90))
        );
        assert_eq!(
            parse("Sunday, 22-Nov-26 09:01:30 GMT"),
            Some(Duration::from_secs(90))
        );
        assert_eq!(parse("Sun, 22 Nov 2026 08:00:00 GMT"), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn nobody_keeps_us_away_for_longer_than_an_hour() {
        assert_eq!(parse_retry_after("86400", 0), Some(BACK_OFF_MAX));
        assert_eq!(
            parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", i64::MIN),
            Some(BACK_OFF_MAX)
        );
        assert_eq!(parse_back_off("18446744073709551615"), Some(BACK_OFF_MAX));
        assert_eq!(parse_back_off("0"), Some(Duration::ZERO));
        assert_eq!(parse_back_off("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_back_off("-5"), None);
    }
}
