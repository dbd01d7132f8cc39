//! Certificates as `tandem pki show` tells of them.

use std::fmt::Write as _;

use tandem_certificate::{Certificate, date};

/// A paragraph about one certificate; `names` are all its alternative names, `now` is Unix time in seconds.
#[must_use]
pub fn describe(certificate: &Certificate, names: &[String], now: i64) -> String {
    let names = match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut text = String::new();
    let rows = [
        ("subject", certificate.subject.clone()),
        ("names", names),
        ("issuer", certificate.issuer.clone()),
        ("usages", usages(certificate)),
        ("until", until(certificate.not_after, now)),
    ];
    for (title, value) in rows {
        let _ = writeln!(text, "  {title:<8} {value}");
    }
    text
}

fn usages(certificate: &Certificate) -> String {
    if certificate.is_authority {
        return "signs certificates".to_owned();
    }
    match (certificate.usages.server_auth, certificate.usages.client_auth) {
        (true, true) => "servers and clients".to_owned(),
        (true, false) => "servers".to_owned(),
        (false, true) => "clients".to_owned(),
        (false, false) => "neither servers nor clients".to_owned(),
    }
}

/// The end of a certificate and how far away it is.
#[must_use]
pub fn until(not_after: i64, now: i64) -> String {
    let (end, days) = (date(not_after), days_left(not_after, now));
    match days {
        _ if now > not_after => format!("{end} (expired)"),
        1 => format!("{end} (1 day left)"),
        days => format!("{end} ({days} days left)"),
    }
}

/// Whole days; negative once it has expired.
#[must_use]
pub fn days_left(not_after: i64, now: i64) -> i64 {
    not_after.saturating_sub(now).div_euclid(DAY_SECS)
}

const DAY_SECS: i64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_the_last_one_is_not_over() {
        assert_eq!(until(86_400, 0), "1970-01-02T00:00:00Z (1 day left)");
        assert_eq!(until(86_399, 0), "1970-01-01T23:59:59Z (0 days left)");
        assert_eq!(until(86_399, 86_400), "1970-01-01T23:59:59Z (expired)");
        assert_eq!(days_left(i64::MIN, i64::MAX), i64::MIN.div_euclid(86_400));
    }
}
