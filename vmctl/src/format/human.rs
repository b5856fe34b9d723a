//! Times, sizes and identifiers as Docker's listings write them.

use std::time::{Duration, SystemTime};

/// How many digits of an identifier listings show.
const SHORT_ID: usize = 12;

/// Units of 1000 bytes.
const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// Units of 1024 bytes.
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A time span in words: its largest unit only.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let minutes = seconds / 60;
    let hours = (minutes + 30) / 60;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago something was, in words.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    format!("{} ago", duration(now.duration_since(then).unwrap_or_default()))
}

/// A size in units of 1000 bytes with three digits, as listings and counters have it.
pub(crate) fn size(bytes: u64) -> String {
    in_units(bytes, 1000, &DECIMAL, 3)
}

/// A size in units of 1024 bytes with four digits, as amounts of memory are written.
pub(crate) fn memory(bytes: u64) -> String {
    in_units(bytes, 1024, &BINARY, 4)
}

/// The beginning of an identifier, without the hash's name.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..SHORT_ID).unwrap_or(digits)
}

/// A text of at most `length` characters, the last an ellipsis if more were left out.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    kept + "…"
}

#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn in_units(bytes: u64, base: u64, units: &[&str], digits: usize) -> String {
    let (mut amount, base) = (bytes as f64, base as f64);
    let mut unit = 0;
    while amount >= base && unit + 1 < units.len() {
        amount /= base;
        unit += 1;
    }
    format!("{}{}", significant(amount, digits), units[unit])
}

/// A number below 10000 with so many digits, without zeros at the end: Go's `%.Ng`.
fn significant(amount: f64, digits: usize) -> String {
    let whole_digits = format!("{:.0}", amount.trunc()).len();
    if whole_digits > digits {
        // Go would write 1e+03; nobody reads that.
        return format!("{amount:.0}");
    }
    let decimals = if amount < 1.0 { digits } else { digits - whole_digits };
    let text = format!("{amount:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * 60 + 59, "59 minutes"),
            (HOUR, "About an hour"),
            (89 * 60, "About an hour"),
            (90 * 60, "2 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
            (u64::MAX, "584942417355 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn time_that_is_still_to_come_is_now() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(ago(now + Duration::from_secs(5), now), "Less than a second ago");
        assert_eq!(ago(now, now + Duration::from_secs(120)), "2 minutes ago");
    }

    #[test]
    fn sizes_have_the_digits_of_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (13_336, "13.3kB"),
            (1_234_567, "1.23MB"),
            (187_654_321, "188MB"),
            (1_090_000_000, "1.09GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (8_392_704, "8.004MiB"),
            (1_073_741_824, "1GiB"),
            (2_040_109_465, "1.9GiB"),
        ] {
            assert_eq!(memory(bytes), text);
        }
    }

    #[test]
    fn identifiers_and_texts_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
        assert_eq!(ellipsis("12345", 5), "12345");
        assert_eq!(ellipsis("123456", 5), "1234…");
        assert_eq!(ellipsis("üüü", 2), "ü…");
    }
}
