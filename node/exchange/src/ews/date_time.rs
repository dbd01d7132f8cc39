//! Converts between `xs:dateTime` and Unix seconds.

use time::{Date, Month, OffsetDateTime};

/// With `Z`, an offset, or nothing, which means UTC because we request nothing else. Fractions are cut off.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (time, offset) = split_offset(time)?;
    let time = whole_seconds(time)?;
    let [hours, minutes, seconds] = digits(time, ':', [2, 2, 2])?;
    let midnight = parse_date(date)?.midnight().assume_utc().unix_timestamp();
    Some(midnight + seconds_of_day(hours, minutes, seconds)? - offset)
}

/// `2026-11-22T09:00:00Z`; times outside the years 1 to 9999 become the nearest time inside.
pub(super) fn write_utc(unix_seconds: i64) -> String {
    write_local(unix_seconds) + "Z"
}

/// The same without a zone, as the availability service requires.
pub(super) fn write_local(unix_seconds: i64) -> String {
    let bounded = unix_seconds.clamp(EARLIEST, LATEST);
    let at = OffsetDateTime::from_unix_timestamp(bounded).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Seconds east of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(position) = time.find(['+', '-']) else {
        return Some((time, 0));
    };
    let (time, offset) = time.split_at_checked(position)?;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let [hours, minutes] = digits(offset.get(1..)?, ':', [2, 2])?;
    (hours <= 14 && minutes < 60).then_some((time, sign * (hours * 3600 + minutes * 60)))
}

fn whole_seconds(time: &str) -> Option<&str> {
    let Some((whole, fraction)) = time.split_once('.') else {
        return Some(time);
    };
    let is_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    is_fraction.then_some(whole)
}

fn parse_date(date: &str) -> Option<Date> {
    let [year, month, day] = digits(date, '-', [4, 2, 2])?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()
}

/// 24:00:00 is the end of the day, and a leap second the end of its minute.
fn seconds_of_day(hours: i64, minutes: i64, seconds: i64) -> Option<i64> {
    let exists = hours < 24 && minutes < 60 && seconds <= 60;
    let is_end_of_day = (hours, minutes, seconds) == (24, 0, 0);
    (exists || is_end_of_day).then_some(hours * 3600 + minutes * 60 + seconds)
}

/// Parses numbers of the given digits each.
fn digits<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        let part = parts.next()?;
        let is_number = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = is_number.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// 0001-01-01T00:00:00Z.
const EARLIEST: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LATEST: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_read_with_and_without_zone_and_fraction() {
        let nine = Some(1_795_338_000);
        for text in [
            "2026-11-22T09:00:00Z",
            "2026-11-22T09:00:00",
            "2026-11-22T09:00:00.5",
            "2026-11-22T09:00:00.123456789Z",
            "2026-11-22T10:00:00+01:00",
            "2026-11-22T03:30:00.000-05:30",
        ] {
            assert_eq!(parse(text), nine, "{text}");
        }
        assert_eq!(parse("2026-11-22T24:00:00Z"), parse("2026-11-23T00:00:00Z"));
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "T",
            "2026-11-22",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T25:00:00Z",
            "2026-11-22T24:00:01Z",
            "2026-11-22T09:60:00Z",
            "2026-11-22T9:00:00Z",
            "2026-11-22T09:00Z",
            "2026-11-22T09:00:00.Z",
            "2026-11-22T09:00:00.1a",
            "2026-11-22T09:00:00+15:00",
            "2026-11-22T09:00:00+0100",
            "2026-11-22T09:00:00+01:00:00",
            "20261-11-22T09:00:00Z",
            "-026-11-22T09:00:00Z",
            "2026-11-22T0ü:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_written_as_its_end() {
        assert_eq!(write_utc(i64::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(write_utc(i64::MAX), "9999-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(at in EARLIEST..=LATEST) {
            prop_assert_eq!(parse(&write_utc(at)), Some(at));
            prop_assert_eq!(parse(&write_local(at)), Some(at));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:.+-]{0,40}|.{0,40}") {
            parse(&text);
        }
    }
}
