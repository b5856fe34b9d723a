//! Signals by name and number: those of the guest's Linux, which every architecture that we run on
//! numbers alike.

use crate::RuntimeError;

/// Names without `SIG`, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal that programs may use, and the last one.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

/// Reads a signal's name, with or without `SIG`, in either case, or its number.
///
/// # Errors
/// There's no such signal.
pub fn parse_signal(text: &str) -> Result<i32, RuntimeError> {
    let invalid = || RuntimeError::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let index = NAMES.iter().position(|known| *known == name);
    let standard = index.and_then(|index| i32::try_from(index + 1).ok());
    let number = match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        _ => standard.or_else(|| real_time(name)),
    };
    number.ok_or_else(invalid)
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+')?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse().ok().filter(|offset| *offset >= 0)
}

/// A signal's name as `inspect` and events have it; its number if it has none.
pub(crate) fn signal_name(signal: i32) -> String {
    let index = usize::try_from(signal).ok().and_then(|number| number.checked_sub(1));
    match index.and_then(|index| NAMES.get(index)) {
        Some(name) => format!("SIG{name}"),
        None => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_found_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SigKill", 9),
            ("SYS", 31),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("SIGRTMIN", 34),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "TERMINATE", "RTMIN+31", "RTMAX--1", "RTMIN-1"] {
            parse_signal(text).unwrap_err();
        }
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(40), "40");
    }
}
