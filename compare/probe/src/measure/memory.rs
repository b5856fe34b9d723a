//! Memory: copying, loads that wait for each other, fresh pages.

use std::hint::black_box;
use std::time::Instant;

use super::timed;
use crate::distribution::{nanoseconds_each, per_second};
use crate::error::in_range;
use crate::results::MemoryResult;
use crate::{ProbeError, files};

/// The least and the most bytes of a buffer.
const SIZES: std::ops::RangeInclusive<u64> = 64 * 1024..=16 << 30;

/// The most rounds.
const MAX_ROUNDS: u64 = 1 << 20;

/// The most loads: as many as there are lines in a GiB, a second or so.
const MAX_LOADS: u64 = 1 << 24;

/// The least loads: fewer would measure the clock.
const MIN_LOADS: u64 = 1 << 18;

/// A processor's cache line, which says where to look next.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(u32);

/// Measures memory by buffers of `bytes` each, of which there are at most two at a time.
///
/// # Errors
///
/// A number makes no sense, or there's too little memory for it.
pub fn memory(bytes: u64, rounds: u64) -> Result<MemoryResult, ProbeError> {
    in_range("--bytes", bytes, *SIZES.start(), *SIZES.end())?;
    in_range("--rounds", rounds, 1, MAX_ROUNDS)?;
    let info = files::read("/proc/meminfo").unwrap_or_default();
    let available = files::kilobytes(&info, "MemAvailable").unwrap_or(u64::MAX);
    // Besides the buffers themselves, something must be left for whoever else runs.
    let needed = bytes.saturating_mul(2).saturating_add(8 << 20);
    if needed > available {
        return Err(ProbeError::Memory { needed, available });
    }
    // The first, while the allocator has nothing that was touched before.
    let (pages, faults, ns_per_page) = touch(bytes)?;
    let bytes_per_second = copy(bytes, rounds)?;
    let (loads, ns_per_load) = chase(bytes)?;
    Ok(MemoryResult {
        bytes,
        rounds,
        bytes_per_second,
        loads,
        ns_per_load,
        pages,
        faults,
        ns_per_page,
    })
}

/// A buffer of zeros.
fn buffer<T: Clone>(count: u64, value: T) -> Result<Vec<T>, ProbeError> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(count)
        .map_err(|_| ProbeError::Memory { needed: count as u64, available: 0 })?;
    buffer.resize(count, value);
    Ok(buffer)
}

/// Touches fresh pages, one by one: without huge pages, of which one touch brings hundreds.
fn touch(bytes: u64) -> Result<(u64, u64, f64), ProbeError> {
    let page = rustix::param::page_size();
    // Older kernels and filters may refuse; the count of faults tells then.
    let switched = rustix::thread::disable_transparent_huge_pages(true).is_ok();
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut fresh: Vec<u8> = Vec::new();
    fresh
        .try_reserve_exact(size)
        .map_err(|_| ProbeError::Memory { needed: bytes, available: 0 })?;
    let before = minor_faults();
    let (pages, elapsed, _) = timed(|| {
        let mut pages = 0;
        for slot in fresh.spare_capacity_mut().iter_mut().step_by(page) {
            slot.write(1);
            pages += 1;
        }
        black_box(&mut fresh);
        pages
    });
    let faults = minor_faults().saturating_sub(before);
    if switched {
        let _ = rustix::thread::disable_transparent_huge_pages(false);
    }
    Ok((pages, faults, nanoseconds_each(pages, elapsed)))
}

/// How many page faults this process has had that needed no disk: field 10 of
/// `/proc/self/stat`, whose second field may have spaces.
fn minor_faults() -> u64 {
    let stat = files::read("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().nth(7).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn copy(bytes: u64, rounds: u64) -> Result<f64, ProbeError> {
    let (from, mut to) = (buffer(bytes, 1_u8)?, buffer(bytes, 2_u8)?);
    // Once before the clock runs: caches and translations are as in every other round.
    to.copy_from_slice(&from);
    let clock = Instant::now();
    for _ in 0..rounds {
        black_box(&mut to).copy_from_slice(black_box(&from));
    }
    black_box(&to);
    Ok(per_second(bytes.saturating_mul(rounds), clock.elapsed()))
}

/// Walks through all lines in an order that no processor can guess.
fn chase(bytes: u64) -> Result<(u64, f64), ProbeError> {
    let lines = ring(bytes / size_of::<Line>() as u64)?;
    let loads = (lines.len() as u64).clamp(MIN_LOADS, MAX_LOADS);
    let (_, elapsed, _) = timed(|| {
        let mut at = 0_u32;
        for _ in 0..loads {
            at = lines[at as usize].0;
        }
        black_box(at)
    });
    Ok((loads, nanoseconds_each(loads, elapsed)))
}

/// Lines each of which names another one, so that all are on one way round (Sattolo's algorithm).
fn ring(count: u64) -> Result<Vec<Line>, ProbeError> {
    let mut lines = buffer(count, Line(0))?;
    for (index, line) in lines.iter_mut().enumerate() {
        line.0 = u32::try_from(index).unwrap_or_default();
    }
    // The same order everywhere.
    let mut random = fastrand::Rng::with_seed(1);
    for index in (1..lines.len()).rev() {
        let other = random.usize(..index);
        lines.swap(index, other);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_passes_through_all_lines_before_it_closes() {
        let lines = ring(1000).unwrap();
        let mut at = 0;
        for step in 1..=1000 {
            at = lines[at].0 as usize;
            assert_eq!(at == 0, step == 1000, "after {step} steps");
        }
    }

    #[test]
    fn fresh_pages_are_all_touched_and_fault() {
        let bytes = 4 << 20;
        let result = memory(bytes, 1).unwrap();
        assert_eq!(result.pages, bytes / rustix::param::page_size() as u64);
        // Other threads' faults count too.
        assert!(result.faults >= result.pages / 2, "{result:?}");
        assert!(result.bytes_per_second > 0.0 && result.ns_per_load > 0.0, "{result:?}");
    }

    #[test]
    fn sizes_that_make_no_sense_are_errors() {
        for (bytes, rounds) in [(0, 1), (1, 1), (u64::MAX, 1), (1 << 20, 0), (1 << 20, u64::MAX)] {
            let result = memory(bytes, rounds);
            assert!(
                matches!(result, Err(ProbeError::Range { .. })),
                "{bytes} {rounds}: {result:?}"
            );
        }
    }
}
