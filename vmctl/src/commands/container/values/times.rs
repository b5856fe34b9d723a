//! Durations, and points in time.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Problem;

/// Units of a duration, in nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `300ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, Problem> {
    let invalid = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let is_number = |char: char| char.is_ascii_digit() || char == '.';
        let end = rest.find(|char| !is_number(char)).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(is_number).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(if number.is_empty() {
                invalid()
            } else {
                format!("missing unit in duration {text:?}")
            });
        }
        let (_, nanos) = UNITS
            .iter()
            .find(|(known, _)| *known == unit)
            .ok_or_else(|| format!("unknown unit {unit:?} in duration {text:?}"))?;
        let part = part(number, *nanos).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        if after.is_empty() {
            return Ok(total);
        }
        rest = after;
    }
}

/// A decimal number of units.
fn part(number: &str, unit_nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit_nanos)?;
    let mut unit = unit_nanos;
    for digit in fraction.bytes() {
        unit /= 10;
        nanos = nanos.checked_add(u64::from(digit - b'0') * unit)?;
    }
    Some(Duration::from_nanos(nanos))
}

/// Reads a point in time: how long ago it was (`10m`), seconds since 1970 (`1700000000.5`), or a
/// date with or without a time and a zone (`2026-01-31T08:00:00Z`), in the host's zone unless one
/// is given.
pub(crate) fn moment(text: &str) -> Result<SystemTime, Problem> {
    let invalid = || {
        format!(
            "invalid time {text:?}: expected a duration, seconds since 1970, or a date and time"
        )
    };
    if let Ok(ago) = duration(text)
        && text != "0"
    {
        return SystemTime::now().checked_sub(ago).ok_or_else(invalid);
    }
    if let Some(since) = part(text, 1_000_000_000) {
        return SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(invalid);
    }
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Ok(stamp.into());
    }
    let civil: DateTime = text.parse().map_err(|_| invalid())?;
    let zoned = civil.to_zoned(TimeZone::system()).map_err(|_| invalid())?;
    Ok(zoned.timestamp().into())
}

/// A point in time as listings write it: `2026-01-31 08:00:00 +0000 UTC`.
pub(crate) fn stamp(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(stamp) => {
            let zoned = stamp.to_zoned(TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => String::new(),
    }
}

/// A point in time as logs and `inspect` write it: `2026-01-31T08:00:00.123456789Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(stamp) => format!("{stamp:.9}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("1s", 1000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            (".5s", 500),
            ("1h2m3.5s", 3_723_500),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, problem) in [
            ("", "invalid duration \"\""),
            ("s", "invalid duration \"s\""),
            ("10", "missing unit in duration \"10\""),
            ("1m10", "missing unit in duration"),
            ("1d", "unknown unit \"d\" in duration \"1d\""),
            ("-1s", "unknown unit \"-\""),
            (".s", "invalid duration"),
            ("1.2.3s", "invalid duration"),
            ("9999999999h", "invalid duration"),
            ("99999999999999999999s", "invalid duration"),
        ] {
            let found = duration(text).unwrap_err();
            assert!(found.starts_with(problem), "{text}: {found}");
        }
    }

    #[test]
    fn moments_are_dates_seconds_or_how_long_ago() {
        let at = |seconds: u64, nanos| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        assert_eq!(moment("1700000000"), Ok(at(1_700_000_000, 0)));
        assert_eq!(moment("1700000000.25"), Ok(at(1_700_000_000, 250_000_000)));
        assert_eq!(moment("2023-11-14T22:13:20Z"), Ok(at(1_700_000_000, 0)));
        assert_eq!(moment("2023-11-14T23:13:20.5+01:00"), Ok(at(1_700_000_000, 500_000_000)));
        let then = moment("10m").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!((600..660).contains(&ago.as_secs()), "{ago:?}");
        assert!(moment("2023-11-14").is_ok() && moment("2023-11-14T22:13:20").is_ok());
        for text in ["", "yesterday", "2023-13-01", "-1", "1d"] {
            assert!(moment(text).unwrap_err().starts_with("invalid time"), "{text}");
        }
    }

    #[test]
    fn stamps_have_a_zone() {
        let text = stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert!(text.starts_with("2023-11-1") && text.len() >= 27, "{text}");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5_000_000);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.005000000Z");
    }
}
