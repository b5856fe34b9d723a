//! A fixed loop of arithmetic.

use std::hint::black_box;

use super::{MAX_COUNT, timed};
use crate::ProbeError;
use crate::distribution::nanoseconds;
use crate::error::in_range;
use crate::results::CpuResult;

/// Goes round a loop of arithmetic that compilers can't shorten.
///
/// # Errors
///
/// It's 0 times, or absurdly often.
pub fn cpu(iterations: u64) -> Result<CpuResult, ProbeError> {
    in_range("--iterations", iterations, 1, MAX_COUNT)?;
    let (checksum, elapsed, cpu) = timed(|| turn(black_box(iterations)));
    Ok(CpuResult {
        iterations,
        elapsed_ns: nanoseconds(elapsed),
        cpu_ns: nanoseconds(cpu),
        checksum,
    })
}

/// Integers (the mixing step of SplitMix64) and floating-point numbers, in one chain of
/// dependencies each.
fn turn(iterations: u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // The logistic map, which stays between 0 and 1 and never settles.
    let mut float = 0.4_f64;
    for index in 0..iterations {
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(index);
        state ^= state >> 27;
        float = 3.99 * float * (1.0 - float);
    }
    black_box(state ^ float.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_depends_on_the_iterations_and_nothing_else() {
        assert_eq!(turn(1000), turn(1000));
        assert_ne!(turn(1000), turn(1001));
        assert_ne!(turn(1), turn(2));
        // Results of different machines are of the same work.
        assert_eq!(turn(1000), 5_219_146_464_240_699_314);
    }

    #[test]
    fn no_iterations_and_too_many_are_errors() {
        assert!(cpu(0).is_err());
        assert!(cpu(u64::MAX).is_err());
    }
}
