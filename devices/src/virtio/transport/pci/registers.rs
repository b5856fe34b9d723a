//! What lies behind the BAR: the structures of VIRTIO 1.3 §4.1.4, the MSI-X table and its
//! pending bits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::super::NotifyPoint;
use super::super::core::VirtioTransportCore;
use super::super::rings::{Half, Ring};
use super::interrupt::PciInterrupt;
use crate::bus::BusDevice;
use crate::bytes;
use crate::pci::MsixTable;

/// How many bytes lie between the addresses that notify two neighbouring queues (§4.1.4.4).
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// Where in the BAR everything is. A page each, so that no two kinds of accesses share one.
pub(super) mod layout {
    pub(crate) const COMMON: u32 = 0x0000;
    /// Without the fields of features that aren't offered (§4.1.4.3).
    pub(crate) const COMMON_LEN: u32 = 0x38;
    pub(crate) const ISR: u32 = 0x1000;
    pub(crate) const ISR_LEN: u32 = 1;
    pub(crate) const DEVICE: u32 = 0x2000;
    pub(crate) const DEVICE_LEN: u32 = 0x1000;
    pub(crate) const NOTIFY: u32 = 0x3000;
    pub(crate) const NOTIFY_LEN: u32 = 0x1000;
    pub(crate) const MSIX_TABLE: u32 = 0x4000;
    pub(crate) const MSIX_TABLE_LEN: u32 = 0x2000;
    pub(crate) const MSIX_PENDING: u32 = 0x6000;
    pub(crate) const MSIX_PENDING_LEN: u32 = 0x1000;
    pub(crate) const SIZE: u64 = 0x8000;
    /// How many vectors the table has room for.
    pub(crate) const MAX_VECTORS: u16 = 512;
}

/// Offsets in the common configuration (§4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const DEVICE_STATUS: u64 = 0x14;
    pub(super) const CONFIG_GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
}

/// The registers of one device.
pub(super) struct Registers {
    core: Mutex<VirtioTransportCore>,
    kicks: Arc<[Arc<EventFd>]>,
    interrupt: Arc<PciInterrupt>,
}

/// One structure of the BAR.
#[derive(Clone, Copy)]
enum Region {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Registers {
    pub(super) fn new(core: VirtioTransportCore, interrupt: Arc<PciInterrupt>) -> Self {
        Self { kicks: core.queue_kicks(), core: Mutex::new(core), interrupt }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, VirtioTransportCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn interrupt(&self) -> &PciInterrupt {
        &self.interrupt
    }

    pub(super) fn msix(&self) -> &MsixTable {
        self.interrupt.msix()
    }

    /// Returns the length of the notification structure in bytes.
    pub(super) fn notify_len(&self) -> u32 {
        u32::try_from(self.kicks.len()).unwrap_or(u32::MAX).saturating_mul(NOTIFY_MULTIPLIER)
    }

    pub(super) fn notify_points(&self) -> Vec<NotifyPoint> {
        (0..)
            .zip(self.kicks.iter())
            .map(|(queue, kick)| {
                let distance = u64::from(queue).saturating_mul(u64::from(NOTIFY_MULTIPLIER));
                let offset = u64::from(layout::NOTIFY).saturating_add(distance);
                NotifyPoint { queue, kick: Arc::clone(kick), offset, datamatch: None }
            })
            .collect()
    }

    /// Kicks the queue whose address was written, whatever the value (§4.1.4.4.1). Takes no lock,
    /// as the write could have been KVM's just as well.
    fn notify(&self, offset: u64) {
        let index = offset.checked_div(u64::from(NOTIFY_MULTIPLIER));
        let kick = index
            .filter(|_| offset.is_multiple_of(u64::from(NOTIFY_MULTIPLIER)))
            .and_then(|index| self.kicks.get(usize::try_from(index).ok()?));
        if let Some(kick) = kick {
            // Fails only when the eventfd is full, and then its reader wakes up anyway.
            let _ = kick.write(1);
        }
    }

    /// Lays out the common configuration as it is now: reads of any width are cut from that.
    fn common(&self) -> [u8; layout::COMMON_LEN as usize] {
        let core = self.core();
        let queue = core.queue();
        let select = core.queue_select();
        let half = |value: u32| u16::try_from(value & 0xffff).unwrap_or_default().to_le_bytes();
        let word = |value: Option<u16>| value.unwrap_or_default().to_le_bytes();
        let address = |ring| queue.map_or(0, |queue| queue.address(ring)).to_le_bytes();
        let generation = core.config_generation().to_le_bytes();
        let [generation, ..] = generation;

        let mut image = [0; layout::COMMON_LEN as usize];
        for (offset, field) in [
            (common::DEVICE_FEATURE_SELECT, &core.device_feature_select().to_le_bytes()[..]),
            (common::DEVICE_FEATURE, &core.device_features().to_le_bytes()),
            (common::DRIVER_FEATURE_SELECT, &core.driver_feature_select().to_le_bytes()),
            (common::DRIVER_FEATURE, &core.driver_features().to_le_bytes()),
            (common::CONFIG_MSIX_VECTOR, &self.interrupt.config_vector().to_le_bytes()),
            (common::NUM_QUEUES, &core.queue_count().to_le_bytes()),
            (common::DEVICE_STATUS, &[core.status()]),
            (common::CONFIG_GENERATION, &[generation]),
            (common::QUEUE_SELECT, &half(select)),
            (common::QUEUE_SIZE, &word(queue.map(|queue| queue.size()))),
            (common::QUEUE_MSIX_VECTOR, &self.interrupt.queue_vector(select).to_le_bytes()),
            (common::QUEUE_ENABLE, &word(queue.map(|queue| u16::from(queue.enabled())))),
            (common::QUEUE_NOTIFY_OFF, &word(queue.and_then(|_| u16::try_from(select).ok()))),
            (common::QUEUE_DESC, &address(Ring::Descriptors)),
            (common::QUEUE_DRIVER, &address(Ring::Available)),
            (common::QUEUE_DEVICE, &address(Ring::Used)),
        ] {
            bytes::write_at(&mut image, usize::try_from(offset).unwrap_or(usize::MAX), field);
        }
        image
    }

    /// Writes one field with its own width (§4.1.3.1); other accesses do nothing.
    fn write_common(&self, offset: u64, data: &[u8]) {
        match *data {
            [value] if offset == common::DEVICE_STATUS => {
                self.core().write_status(u32::from(value));
            }
            [a, b] => self.write_common_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_common_u32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h]
                if offset.is_multiple_of(8) && ring_register(offset).is_some() =>
            {
                self.write_common_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_common_u32(offset | 0x4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_common_u16(&self, offset: u64, value: u16) {
        let mut core = self.core();
        match offset {
            common::CONFIG_MSIX_VECTOR => self.interrupt.set_config_vector(value),
            common::QUEUE_SELECT => core.select_queue(u32::from(value)),
            common::QUEUE_SIZE => core.set_queue_size(value),
            common::QUEUE_MSIX_VECTOR => {
                self.interrupt.set_queue_vector(core.queue_select(), value);
            }
            // A driver may not write 0 (§4.1.4.3.2).
            common::QUEUE_ENABLE if value == 1 => core.enable_queue(),
            _ => {}
        }
    }

    fn write_common_u32(&self, offset: u64, value: u32) {
        let mut core = self.core();
        match offset {
            common::DEVICE_FEATURE_SELECT => core.select_device_features(value),
            common::DRIVER_FEATURE_SELECT => core.select_driver_features(value),
            common::DRIVER_FEATURE => core.write_driver_features(value),
            _ => {
                if let Some((ring, half)) = ring_register(offset) {
                    core.set_ring_address(ring, half, value);
                }
            }
        }
    }
}

impl BusDevice for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match region(offset, data.len()) {
            Some((Region::Common, offset)) => bytes::read_at(&self.common(), offset, data),
            Some((Region::Isr, 0)) => bytes::read_at(&[self.interrupt.take_isr()], 0, data),
            Some((Region::Device, offset)) => self.core().read_config(offset, data),
            Some((Region::MsixTable, offset)) => self.msix().read_table(offset, data),
            Some((Region::MsixPending, offset)) => self.msix().read_pending(offset, data),
            Some((Region::Isr | Region::Notify, _)) | None => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match region(offset, data.len()) {
            Some((Region::Common, offset)) => self.write_common(offset, data),
            Some((Region::Device, offset)) => self.core().write_config(offset, data),
            Some((Region::Notify, offset)) => self.notify(offset),
            Some((Region::MsixTable, offset)) => self.msix().write_table(offset, data),
            Some((Region::Isr | Region::MsixPending, _)) | None => {}
        }
    }
}

/// Returns the structure that all `len` bytes at `offset` belong to, and the offset in that.
fn region(offset: u64, len: usize) -> Option<(Region, u64)> {
    let end = offset.checked_add(u64::try_from(len).ok()?)?;
    [
        // Reads of the ISR may be wider than its one byte: the rest is zero.
        (Region::Common, layout::COMMON, layout::COMMON_LEN),
        (Region::Isr, layout::ISR, layout::DEVICE.wrapping_sub(layout::ISR)),
        (Region::Device, layout::DEVICE, layout::DEVICE_LEN),
        (Region::Notify, layout::NOTIFY, layout::NOTIFY_LEN),
        (Region::MsixTable, layout::MSIX_TABLE, layout::MSIX_TABLE_LEN),
        (Region::MsixPending, layout::MSIX_PENDING, layout::MSIX_PENDING_LEN),
    ]
    .into_iter()
    .find_map(|(region, start, region_len)| {
        let at = offset.checked_sub(u64::from(start))?;
        let inside = end <= u64::from(start).saturating_add(u64::from(region_len));
        inside.then_some((region, at))
    })
}

fn ring_register(offset: u64) -> Option<(Ring, Half)> {
    let ring = match offset & !0x4 {
        common::QUEUE_DESC => Ring::Descriptors,
        common::QUEUE_DRIVER => Ring::Available,
        common::QUEUE_DEVICE => Ring::Used,
        _ => return None,
    };
    Some((ring, if offset & 0x4 == 0 { Half::Low } else { Half::High }))
}
