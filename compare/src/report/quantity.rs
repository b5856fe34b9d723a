//! Numbers with the unit in which they are read most easily.

use super::text::columns;
use crate::model::{Figure, Unit};
use crate::statistics::ENOUGH;

/// A unit that a number is written in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// How many of the row's unit it has.
    pub size: f64,
    /// What stands behind the number.
    pub suffix: &'static str,
}

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;
const GIB: f64 = MIB * KIB;

/// The units of each kind: from which value on, its size, its name. Descending.
const fn scales(unit: Unit) -> &'static [(f64, f64, &'static str)] {
    match unit {
        Unit::Microseconds | Unit::CpuMicroseconds => {
            &[(180e6, 60e6, " min"), (0.5e6, 1e6, " s"), (1e3, 1e3, " ms"), (0.0, 1.0, " µs")]
        }
        Unit::Nanoseconds => {
            &[(0.5e9, 1e9, " s"), (1e6, 1e6, " ms"), (1e3, 1e3, " µs"), (0.0, 1.0, " ns")]
        }
        Unit::Bytes => {
            &[(GIB, GIB, " GiB"), (MIB, MIB, " MiB"), (KIB, KIB, " KiB"), (0.0, 1.0, " B")]
        }
        Unit::BytesPerSecond => {
            &[(GIB, GIB, " GiB/s"), (MIB, MIB, " MiB/s"), (KIB, KIB, " KiB/s"), (0.0, 1.0, " B/s")]
        }
        Unit::PerSecond => &[(1e7, 1e6, " M/s"), (0.0, 1.0, "/s")],
        Unit::PerMinute => &[(1e7, 1e6, " M/min"), (0.0, 1.0, "/min")],
        Unit::Count | Unit::Text => &[(1e7, 1e6, " M"), (0.0, 1.0, "")],
    }
}

impl Scale {
    /// The one in which a value is read most easily.
    pub fn of(unit: Unit, value: f64) -> Self {
        let fits = |scale: &&(f64, f64, &'static str)| value.abs() >= scale.0;
        let scale = scales(unit).iter().find(fits);
        scale.map_or(Self { size: 1.0, suffix: "" }, |&(_, size, suffix)| Self { size, suffix })
    }

    /// How many digits after the point a value has in it, of about three in all.
    fn decimals(self, value: f64) -> usize {
        let scaled = (value / self.size).abs();
        // Wholes are exact where nothing was divided.
        let whole = self.size == 1.0 && scaled.fract() == 0.0;
        match scaled {
            _ if whole => 0,
            scaled if scaled >= 99.95 => 0,
            scaled if scaled >= 9.995 => 1,
            scaled if scaled >= 0.9995 || self.size == 1.0 => 2,
            _ => 3,
        }
    }

    /// The number alone.
    fn number(self, value: f64, decimals: usize) -> String {
        grouped(&format!("{:.decimals$}", value / self.size))
    }
}

/// Puts a comma between each three digits before the point.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A value with its unit: `38.1 ms`, `35.7 MiB`, `12,345/s`.
pub fn quantity(unit: Unit, value: f64) -> String {
    let scale = Scale::of(unit, value);
    format!("{}{}", scale.number(value, scale.decimals(value)), scale.suffix)
}

/// How far a median can be trusted, in the median's unit: `±1.2` where both sides are about the
/// same or `width` is too narrow for `[37.9–41.0]`. Nothing of a single sample.
pub fn interval(unit: Unit, figure: &Figure, width: usize) -> Option<String> {
    if figure.samples.len() < 2 {
        return None;
    }
    let scale = Scale::of(unit, figure.median);
    let decimals = scale.decimals(figure.median);
    let (below, above) = (figure.median - figure.low, figure.high - figure.median);
    let (less, more) = (below.min(above), below.max(above));
    let (low, high) = (scale.number(figure.low, decimals), scale.number(figure.high, decimals));
    let both = format!("[{low}–{high}]");
    // Where there's no room for both sides, the longer one is given: no interval looks better.
    let sides = match less * 1.5 >= more {
        true => (below + above) / 2.0,
        false if low == high || columns(&both) > width => more,
        false => return Some(both),
    };
    Some(format!("±{}", scale.number(sides, decimals)))
}

/// What's given beside a median of that many samples.
pub const fn spread(samples: usize) -> &'static str {
    if samples < ENOUGH { "range" } else { "95 % interval" }
}

/// A number of things: `1 CPU`, `2 CPUs`.
pub fn counted(count: u32, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// How many times a value is of another: `1.4 ×`, `120 ×`.
pub fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 99.95 => grouped(&format!("{ratio:.0}")) + " ×",
        ratio if ratio >= 9.995 => format!("{ratio:.0} ×"),
        ratio if ratio >= 0.995 => format!("{ratio:.1} ×"),
        ratio => format!("{ratio:.2} ×"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_adapt_to_the_size() {
        for (unit, value, written) in [
            (Unit::Microseconds, 520_000.0, "0.520 s"),
            (Unit::Microseconds, 38_140.0, "38.1 ms"),
            (Unit::Microseconds, 412_400.0, "412 ms"),
            (Unit::Microseconds, 7.25, "7.25 µs"),
            (Unit::Microseconds, 17_400_000.0, "17.4 s"),
            (Unit::CpuMicroseconds, 240e6, "4.00 min"),
            (Unit::Nanoseconds, 142.4, "142 ns"),
            (Unit::Nanoseconds, 58_000.0, "58.0 µs"),
            (Unit::Bytes, 37_434_163.0, "35.7 MiB"),
            (Unit::Bytes, 512.0, "512 B"),
            (Unit::BytesPerSecond, 2.1 * 1024.0 * 1024.0 * 1024.0, "2.10 GiB/s"),
            (Unit::PerSecond, 12_345.4, "12,345/s"),
            (Unit::PerSecond, 12_345_678.0, "12.3 M/s"),
            (Unit::PerMinute, 546.0, "546/min"),
            (Unit::Count, 1_234_567.0, "1,234,567"),
            (Unit::Count, 2.94, "2.94"),
            (Unit::Count, 0.0, "0"),
            (Unit::Count, -1234.0, "-1,234"),
        ] {
            assert_eq!(quantity(unit, value), written);
        }
    }

    #[test]
    fn interval_is_in_the_medians_unit() {
        let figure = |median, low, high| Figure {
            samples: vec![low, high],
            median,
            low,
            high,
            outliers: Vec::new(),
        };
        let written =
            |median, low, high| interval(Unit::Microseconds, &figure(median, low, high), 11);
        assert_eq!(written(38_100.0, 36_900.0, 39_300.0).unwrap(), "±1.2");
        assert_eq!(written(38_100.0, 38_000.0, 41_000.0).unwrap(), "[38.0–41.0]");
        let narrow = interval(Unit::Microseconds, &figure(38_100.0, 38_000.0, 41_000.0), 10);
        assert_eq!(narrow.unwrap(), "±2.9");
        assert_eq!(written(38_100.0, 38_100.0, 38_100.0).unwrap(), "±0.0");
        let single = Figure::of(vec![3.0]).unwrap();
        assert_eq!(interval(Unit::Bytes, &single, 80), None);
    }

    #[test]
    fn ratios_have_no_more_digits_than_are_read() {
        assert_eq!(times(1.43), "1.4 ×");
        assert_eq!(times(1234.0), "1,234 ×");
        assert_eq!(times(0.417), "0.42 ×");
        assert_eq!(times(12.4), "12 ×");
    }
}
