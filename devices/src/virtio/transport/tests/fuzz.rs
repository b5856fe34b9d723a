//! Random accesses: whatever a driver does, nothing panics and a reset brings the device back.

use super::device::Probe;
use super::driver::{Driver, Pci, bring_up, start};
use super::on_both_transports;
use crate::virtio::testing::guest_ram;

on_both_transports!(random_register_accesses_never_panic);

/// Marsaglia's xorshift: the same accesses in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn width(&mut self) -> usize {
        [1, 2, 4, 8, 3, 5, 6, 7][self.below(8) as usize]
    }

    /// Values that mean something more often than chance would have it.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 1 << self.below(64),
            4 => self.below(0x10_0000),
            _ => self.next(),
        }
    }
}

fn random_register_accesses_never_panic<D: Driver>() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (driver, probe, memory) = start::<D>();
    for round in 0..200_u32 {
        if round.is_multiple_of(4) {
            let _queue = bring_up(&driver, &memory);
        }
        for _ in 0..200 {
            // Most registers lie at the start; the rest gets its share.
            let end = if random.below(4) == 0 { driver.register_bytes() } else { 0x100 };
            let (offset, width) = (random.below(end), random.width());
            let mut data = random.value().to_le_bytes();
            if random.below(2) == 0 {
                driver.peek(offset, &mut data[..width]);
            } else {
                driver.poke(offset, &data[..width]);
            }
        }
    }
    let _queue = bring_up(&driver, &memory);
    assert!(probe.record().active.is_some());
}

#[test]
fn random_configuration_accesses_never_panic() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (probe, memory) = (Probe::default(), guest_ram());
    let driver = Pci::new(&probe, memory.clone());
    for _ in 0..40_000 {
        let end = if random.below(8) == 0 { 0x1000 } else { 0x100 };
        let (register, width) = (random.below(end) as u16, random.width());
        let mut data = random.value().to_le_bytes();
        if random.below(2) == 0 {
            driver.config(register, &mut data[..width]);
        } else {
            driver.set_config(register, &data[..width]);
        }
    }
    driver.set_config(0x10, &(super::driver::BAR).to_le_bytes());
    driver.set_config(0x04, &[6]);
    let _queue = bring_up(&driver, &memory);
    assert!(probe.record().active.is_some());
}
