//! Amounts of memory, of CPUs, and resource limits.

use runtime::Ulimit;

use super::Problem;

/// Billionths of a CPU.
const NANOS: u64 = 1_000_000_000;

/// Reads an amount of memory in bytes: `512m`, `1.5g`, `1073741824`. Units are powers of 1024;
/// without one it's bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, Problem> {
    let invalid = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|char: char| !(char.is_ascii_digit() || char == '.'));
    let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(invalid()),
    };
    scaled(number, 1 << shift).ok_or_else(invalid)
}

/// Reads how much CPU time a container may use at most, in billionths of a CPU: `1.5`.
pub(crate) fn nano_cpus(text: &str) -> Result<u64, Problem> {
    let invalid = || format!("failed to parse {text} as a number of CPUs");
    if text.split_once('.').is_some_and(|(_, fraction)| fraction.len() > 9) {
        return Err("value is too precise".to_owned());
    }
    match scaled(text, NANOS).ok_or_else(invalid)? {
        0 => Err("a container needs more than none".to_owned()),
        nanos => Ok(nanos),
    }
}

/// A decimal number times a factor, rounded down; without a rounding error of its own.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    // More digits than a factor has don't count.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = match fraction {
        "" => 0,
        digits => {
            let digits_value: u128 = digits.parse().ok()?;
            let divisor = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
            u64::try_from(digits_value * u128::from(factor) / divisor).ok()?
        }
    };
    whole.checked_mul(factor)?.checked_add(part)
}

/// The limits that there are.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads `name=soft[:hard]`.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Problem> {
    let invalid = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}; there are {}", ULIMITS.join(", ")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let limit =
        |text: &str| text.parse::<i64>().ok().filter(|value| *value >= -1).ok_or_else(invalid);
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    // -1 is the largest.
    let above = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    if above(soft) > above(hard) {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_dockers_units() {
        for (text, expected) in [
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("64MiB", 64 << 20),
            ("1 GB", 1 << 30),
            ("1073741824", 1 << 30),
            ("0", 0),
            ("4096b", 4096),
            (".5k", 512),
            ("1.k", 1024),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in
            ["", "m", "-1m", "1x", "1mm", "1.2.3m", "1e9", "99999999999g", "1,5g", "½g", "."]
        {
            assert_eq!(bytes(text), Err(format!("invalid size: '{text}'")));
        }
    }

    #[test]
    fn cpus_are_read_exactly() {
        for (text, expected) in
            [("1", NANOS), ("0.5", NANOS / 2), (".1", NANOS / 10), ("0.000000001", 1)]
        {
            assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        }
        for (text, problem) in [
            ("", "failed to parse"),
            ("x", "failed to parse"),
            ("-1", "failed to parse"),
            ("99999999999999999999", "failed to parse"),
            ("0", "a container needs more than none"),
            ("0.0", "a container needs more than none"),
            ("0.0000000001", "value is too precise"),
        ] {
            assert!(nano_cpus(text).unwrap_err().starts_with(problem), "{text}");
        }
    }

    #[test]
    fn limits_are_read_with_one_or_two_values() {
        let limit = |name: &str, soft, hard| Ok(Ulimit { name: name.to_owned(), soft, hard });
        assert_eq!(ulimit("nofile=1024"), limit("nofile", 1024, 1024));
        assert_eq!(ulimit("nofile=1024:2048"), limit("nofile", 1024, 2048));
        assert_eq!(ulimit("core=-1"), limit("core", -1, -1));
        assert_eq!(ulimit("stack=1:-1"), limit("stack", 1, -1));
        for (text, problem) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("nofile=", "invalid ulimit argument: nofile="),
            ("nofile=a", "invalid ulimit argument"),
            ("nofile=-2", "invalid ulimit argument"),
            ("nofile=1:2:3", "invalid ulimit argument"),
            ("files=1", "invalid ulimit type: files; there are as,"),
            ("nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
            ("nofile=-1:1", "ulimit soft limit must be less"),
        ] {
            assert!(ulimit(text).unwrap_err().starts_with(problem), "{text}");
        }
    }
}
