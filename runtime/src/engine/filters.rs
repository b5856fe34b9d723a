//! What things are chosen by.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use crate::RuntimeError;
use crate::config::Protocol;

/// Whether labels have all that's wanted: `NAME` or `NAME=VALUE`.
pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    })
}

/// Whether a name has what's looked for: a part of it, at its beginning with `^`, at its end with
/// `$`. Docker's names begin with a slash inside.
pub(super) fn matches_name(pattern: &str, name: &str) -> bool {
    let (pattern, from_start) =
        pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (from_start, pattern.strip_suffix('$')) {
        (true, Some(pattern)) => name == pattern,
        (true, None) => name.starts_with(pattern),
        (false, Some(pattern)) => name.ends_with(pattern),
        (false, None) => name.contains(pattern),
    }
}

/// Reads `PORT[-PORT][/PROTOCOL]`.
pub(super) fn parse_ports(text: &str) -> Option<(RangeInclusive<u16>, Protocol)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first != 0 && first <= last).then_some(())?;
    Some((first..=last, protocol.parse().ok()?))
}

/// Reads a time: a duration before now (`10m`, `1h30m`), seconds since the epoch, or RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<SystemTime, RuntimeError> {
    let seconds = text.parse::<f64>().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
    let time = match seconds {
        Some(seconds) => SystemTime::UNIX_EPOCH.checked_add(seconds),
        None => match humantime::parse_duration(text) {
            Ok(age) => SystemTime::now().checked_sub(age),
            Err(_) => humantime::parse_rfc3339_weak(text).ok(),
        },
    };
    time.ok_or_else(|| RuntimeError::invalid(format!("invalid time: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_in_part_or_at_an_end() {
        for (pattern, fits) in
            [("eb", true), ("^web$", true), ("^/web$", true), ("^eb", false), ("b$", true)]
        {
            assert_eq!(matches_name(pattern, "web"), fits, "{pattern}");
        }
    }

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(parse_ports("80"), Some((80..=80, Protocol::Tcp)));
        assert_eq!(parse_ports("80-90/udp"), Some((80..=90, Protocol::Udp)));
        for text in ["", "0", "90-80", "80/icmp", "a-b", "80-", "65536"] {
            assert_eq!(parse_ports(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_ages_seconds_or_dates() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(parse_time("1700000000").unwrap(), at(1_700_000_000));
        assert_eq!(parse_time("2023-11-14T22:13:20Z").unwrap(), at(1_700_000_000));
        let ago = SystemTime::now().duration_since(parse_time("1h30m").unwrap()).unwrap();
        assert!((5399..5460).contains(&ago.as_secs()), "{ago:?}");
        for text in ["", "yesterday", "-5", "1e300", "NaN", "10 parsecs"] {
            parse_time(text).unwrap_err();
        }
    }
}
