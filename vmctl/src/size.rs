//! Sizes as people write them: `128M`, `1G`, `512MiB`.

use thiserror::Error;

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SizeError {
    /// There's no number in front.
    #[error("expected a size such as 512M or 2G")]
    NotANumber,
    /// A number alone may be meant in bytes or in MiB.
    #[error("a size needs a unit: K, M, G or T, such as {0}M")]
    NoUnit(u64),
    /// Not a unit that's known.
    #[error("unknown unit {0:?}: use K, M, G or T (powers of 1024, also written KiB, MiB, ...)")]
    UnknownUnit(String),
    /// More bytes than 64 bits count.
    #[error("too large")]
    TooLarge,
}

/// Reads a whole number with a unit, in powers of 1024, as bytes. Only 0 needs no unit.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NotANumber);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" if number == 0 => 0,
        "" => return Err(SizeError::NoUnit(number)),
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(SizeError::UnknownUnit(unit.to_owned())),
    };
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// Reads a size that's a whole number of MiB, as MiB.
pub(crate) fn parse_mib(text: &str) -> Result<u64, String> {
    let bytes = parse(text).map_err(|error| error.to_string())?;
    if !bytes.is_multiple_of(1 << 20) {
        return Err("must be a whole number of MiB".to_owned());
    }
    Ok(bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("128M", 128 << 20),
            ("1G", 1 << 30),
            ("512MiB", 512 << 20),
            ("4k", 4096),
            ("2T", 2 << 40),
            ("0", 0),
            ("0M", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for (text, error) in [
            ("", SizeError::NotANumber),
            ("M", SizeError::NotANumber),
            ("-1M", SizeError::NotANumber),
            ("512", SizeError::NoUnit(512)),
            ("1.5G", SizeError::UnknownUnit(".5G".to_owned())),
            ("1MB", SizeError::UnknownUnit("MB".to_owned())),
            ("1 G", SizeError::UnknownUnit(" G".to_owned())),
            ("99999999999999999999M", SizeError::TooLarge),
            ("99999999T", SizeError::TooLarge),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn memory_is_whole_mib() {
        assert_eq!(parse_mib("1G"), Ok(1024));
        assert_eq!(parse_mib("2048K"), Ok(2));
        assert!(parse_mib("1K").unwrap_err().contains("whole number of MiB"));
    }
}
