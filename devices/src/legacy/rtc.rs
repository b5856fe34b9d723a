//! The PC's real-time clock and its CMOS RAM (Motorola MC146818), showing the host's time in UTC.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::each_port;
use crate::bus::BusDevice;
use crate::state::RestoreError;

const INDEX_PORT: u64 = 0;
const DATA_PORT: u64 = 1;
/// The index port's top bit masks NMIs on a PC and isn't part of the index.
const INDEX_MASK: u8 = 0x7f;
const RAM_SIZE: usize = 128;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// Status A: a time base of 32768 Hz and the default rate, and the update-in-progress bit.
const TIME_BASE: u8 = 0x26;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// How long before each second the chip says that an update is near (MC146818 data sheet, t_BUC).
const UPDATE_NOTICE: Duration = Duration::from_micros(244);
/// Status B: SET halts updates, DM selects binary over BCD, and 24 the 24-hour format. The
/// interrupt enables can't be set: the clock has no interrupt.
const HALT: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const STATUS_B_WRITABLE: u8 = HALT | BINARY | HOURS_24;
/// Status D: RAM and time are valid.
const VALID: u8 = 1 << 7;
/// In the 12-hour format, the hours' top bit says "afternoon".
const AFTERNOON: u8 = 1 << 7;

/// An MC146818 at its index and data ports. What the guest writes to the time is ignored, and so is
/// the alarm: there's no interrupt to deliver it with.
pub struct Rtc {
    state: Mutex<State>,
    /// The host's time since 1970-01-01 00:00:00 UTC.
    now: fn() -> Duration,
}

struct State {
    index: u8,
    format: u8,
    ram: [u8; RAM_SIZE],
}

/// What a clock saves. The time isn't among it: it's the host's, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// The register that the data port means.
    pub index: u8,
    /// Status B.
    pub format: u8,
    /// CMOS RAM, alarms included.
    pub ram: Vec<u8>,
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtc {
    /// Number of ports.
    pub const SIZE: u64 = 2;
    /// Where the century is kept, for the FADT's `CENTURY`.
    pub const CENTURY: u8 = 0x32;

    /// Creates a clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_clock(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn with_clock(now: fn() -> Duration) -> Self {
        let state = State { index: 0, format: HOURS_24, ram: [0; RAM_SIZE] };
        Self { state: Mutex::new(state), now }
    }

    /// Returns the registers.
    pub fn save(&self) -> RtcState {
        let State { index, format, ram } = &*self.lock();
        RtcState { index: *index, format: *format, ram: ram.to_vec() }
    }

    /// Takes over what [`save`](Self::save) returned. The clock goes on showing the host's time.
    ///
    /// # Errors
    /// [`RestoreError`] for a RAM of another size.
    pub fn restore(&self, state: &RtcState) -> Result<(), RestoreError> {
        let size = state.ram.len();
        let ram = <[u8; RAM_SIZE]>::try_from(state.ram.as_slice())
            .map_err(|_| RestoreError::invalid("size of CMOS RAM", size))?;
        let index = state.index & INDEX_MASK;
        let format = state.format & STATUS_B_WRITABLE;
        *self.lock() = State { index, format, ram };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(&self, now: Duration) -> u8 {
        let time = CalendarTime::from_unix(now.as_secs());
        match self.index {
            SECONDS => self.number(time.second),
            MINUTES => self.number(time.minute),
            HOURS => self.hours(time.hour),
            DAY_OF_WEEK => self.number(time.day_of_week),
            DAY_OF_MONTH => self.number(time.day),
            MONTH => self.number(time.month),
            YEAR => self.number(time.year_of_century),
            Rtc::CENTURY => self.number(time.century),
            STATUS_A if self.update_is_near(now) => TIME_BASE | UPDATE_IN_PROGRESS,
            STATUS_A => TIME_BASE,
            STATUS_B => self.format,
            STATUS_C => 0,
            STATUS_D => VALID,
            index => self.ram.get(usize::from(index)).copied().unwrap_or_default(),
        }
    }

    fn write(&mut self, value: u8) {
        match self.index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK | DAY_OF_MONTH | MONTH | YEAR => {}
            Rtc::CENTURY | STATUS_A | STATUS_C | STATUS_D => {}
            STATUS_B => self.format = value & STATUS_B_WRITABLE,
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => self.set_ram(value),
            _ => self.set_ram(value),
        }
    }

    fn set_ram(&mut self, value: u8) {
        if let Some(cell) = self.ram.get_mut(usize::from(self.index)) {
            *cell = value;
        }
    }

    fn update_is_near(&self, now: Duration) -> bool {
        let next = Duration::from_secs(1).saturating_sub(UPDATE_NOTICE);
        self.format & HALT == 0 && now.subsec_nanos() >= next.subsec_nanos()
    }

    /// Shows `value` (below 100) in the format that status B selects.
    fn number(&self, value: u8) -> u8 {
        if self.format & BINARY != 0 { value } else { to_bcd(value) }
    }

    fn hours(&self, hour: u8) -> u8 {
        if self.format & HOURS_24 != 0 {
            return self.number(hour);
        }
        let (half, afternoon) = match hour.checked_sub(12) {
            Some(half) => (half, AFTERNOON),
            None => (hour, 0),
        };
        self.number(if half == 0 { 12 } else { half }) | afternoon
    }
}

fn to_bcd(value: u8) -> u8 {
    let tens = value.checked_div(10).unwrap_or_default();
    let ones = value.checked_rem(10).unwrap_or_default();
    tens << 4 | ones
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (port, value) in (offset..).zip(data) {
            if port == DATA_PORT {
                *value = state.read((self.now)());
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        each_port(offset, data, |port, value| match port {
            INDEX_PORT => state.index = value & INDEX_MASK,
            DATA_PORT => state.write(value),
            _ => {}
        });
    }
}

/// A moment in the proleptic Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct CalendarTime {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    day_of_week: u8,
    day: u8,
    month: u8,
    year_of_century: u8,
    century: u8,
}

impl CalendarTime {
    #[expect(clippy::arithmetic_side_effects, reason = "the time is cut off at the year 9999")]
    fn from_unix(seconds: u64) -> Self {
        /// 9999-12-31 23:59:59, the last second that four digits show.
        const LAST: u64 = 253_402_300_799;
        let seconds = seconds.min(LAST);
        let (mut days, time) = (seconds / 86_400, seconds % 86_400);
        // 1970-01-01 was a Thursday.
        let day_of_week = (days + 4) % 7 + 1;
        let mut year = 1970;
        while days >= days_in_year(year) {
            days -= days_in_year(year);
            year += 1;
        }
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        Self {
            second: small(time % 60),
            minute: small(time / 60 % 60),
            hour: small(time / 3600),
            day_of_week: small(day_of_week),
            day: small(days + 1),
            month: small(month),
            year_of_century: small(year % 100),
            century: small(year / 100),
        }
    }
}

fn small(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 23:59:58 UTC, a Thursday.
    const LEAP_DAY: u64 = 1_709_251_198;

    fn at(now: fn() -> Duration) -> Rtc {
        Rtc::with_clock(now)
    }

    fn read(rtc: &Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut value = [0xff];
        rtc.read(1, &mut value);
        value[0]
    }

    fn write(rtc: &Rtc, index: u8, value: u8) {
        rtc.write(0, &[index]);
        rtc.write(1, &[value]);
    }

    fn time(rtc: &Rtc) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK, HOURS, MINUTES, SECONDS]
            .map(|index| read(rtc, index))
    }

    const CENTURY: u8 = Rtc::CENTURY;

    #[test]
    fn time_is_shown_in_bcd_first_and_in_binary_on_demand() {
        let rtc = at(|| Duration::from_secs(LEAP_DAY));
        assert_eq!(read(&rtc, STATUS_B), HOURS_24);
        assert_eq!(time(&rtc), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
        write(&rtc, STATUS_B, HOURS_24 | BINARY);
        assert_eq!(time(&rtc), [20, 24, 2, 29, 5, 23, 59, 58]);
    }

    #[test]
    fn twelve_hour_format_runs_from_12_to_11_with_a_bit_for_the_afternoon() {
        for (now, expected) in [
            ((|| Duration::ZERO) as fn() -> Duration, 12),
            (|| Duration::from_secs(11 * 3600), 11),
            (|| Duration::from_secs(12 * 3600), 12 | AFTERNOON),
            (|| Duration::from_secs(23 * 3600), 11 | AFTERNOON),
        ] {
            let rtc = at(now);
            write(&rtc, STATUS_B, BINARY);
            assert_eq!(read(&rtc, HOURS), expected);
        }
    }

    #[test]
    fn calendar_holds_over_leap_years_and_ends_of_centuries() {
        for (seconds, (century, year, month, day, weekday)) in [
            (0, (19, 70, 1, 1, 5)),
            (946_684_799, (19, 99, 12, 31, 6)),
            (946_684_800, (20, 0, 1, 1, 7)),
            (LEAP_DAY + 2, (20, 24, 3, 1, 6)),
            (4_107_542_399, (21, 0, 2, 28, 1)),
            (4_107_542_400, (21, 0, 3, 1, 2)),
            (u64::MAX, (99, 99, 12, 31, 6)),
        ] {
            let time = CalendarTime::from_unix(seconds);
            let date = (time.century, time.year_of_century, time.month, time.day, time.day_of_week);
            assert_eq!(date, (century, year, month, day, weekday), "{seconds}");
        }
    }

    #[test]
    fn update_in_progress_shows_only_just_before_the_second_turns() {
        for (now, busy) in [
            ((|| Duration::new(1, 0)) as fn() -> Duration, false),
            (|| Duration::new(1, 999_755_999), false),
            (|| Duration::new(1, 999_756_000), true),
            (|| Duration::new(1, 999_999_999), true),
        ] {
            let rtc = at(now);
            assert_eq!(read(&rtc, STATUS_A) & UPDATE_IN_PROGRESS != 0, busy);
            assert_eq!(read(&rtc, STATUS_A) & !UPDATE_IN_PROGRESS, TIME_BASE);
            write(&rtc, STATUS_B, HALT | HOURS_24);
            assert_eq!(read(&rtc, STATUS_A), TIME_BASE, "updates are halted");
        }
    }

    #[test]
    fn writes_change_neither_time_nor_status_but_the_format() {
        let rtc = at(|| Duration::from_secs(LEAP_DAY));
        let before = time(&rtc);
        for index in 0..=STATUS_D {
            write(&rtc, index, if index == STATUS_B { 0x7a } else { 0xff });
        }
        write(&rtc, CENTURY, 0xff);
        assert_eq!(time(&rtc), before);
        assert_eq!(read(&rtc, STATUS_A), TIME_BASE);
        assert_eq!(read(&rtc, STATUS_B), HOURS_24, "interrupts can't be enabled");
        assert_eq!(read(&rtc, STATUS_C), 0);
        assert_eq!(read(&rtc, STATUS_D), VALID);
    }

    #[test]
    fn ram_keeps_what_is_written_and_the_nmi_bit_is_no_part_of_the_index() {
        let rtc = at(|| Duration::ZERO);
        for index in STATUS_D + 1..=INDEX_MASK {
            write(&rtc, index | 0x80, index);
        }
        for index in (STATUS_D + 1..=INDEX_MASK).filter(|index| *index != CENTURY) {
            assert_eq!(read(&rtc, index), index);
        }
    }

    #[test]
    fn restored_clock_has_the_ram_and_format_and_todays_time() {
        let old = at(|| Duration::from_secs(LEAP_DAY));
        write(&old, STATUS_B, HOURS_24 | BINARY);
        write(&old, SECONDS_ALARM, 0xc0);
        write(&old, 0x40, 7);
        let saved = old.save();
        let new = at(|| Duration::from_secs(LEAP_DAY + 2));
        new.restore(&saved).unwrap();
        assert_eq!(new.save(), saved);
        let mut selected = [0];
        new.read(1, &mut selected);
        assert_eq!(selected, [7], "the index was forgotten");
        assert_eq!(time(&new), [20, 24, 3, 1, 6, 0, 0, 0]);

        for size in [0, 127, 129] {
            let hostile = RtcState { ram: vec![0; size], ..saved.clone() };
            assert!(new.restore(&hostile).is_err());
        }
        new.restore(&RtcState { index: 0xff, format: 0xff, ..saved }).unwrap();
        assert_eq!(new.save().index, INDEX_MASK);
        assert_eq!(read(&new, STATUS_B), HALT | BINARY | HOURS_24, "no interrupt was enabled");
    }

    #[test]
    fn index_port_reads_as_nothing() {
        let rtc = at(|| Duration::ZERO);
        let mut ports = [0xff; 2];
        rtc.read(0, &mut ports);
        assert_eq!(ports, [0xff, 0], "the index is write-only; index 0 is the seconds");
    }
}
