//! Virtio over MMIO (VIRTIO 1.3 §4.2): one window of registers and one interrupt line.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sys::memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use super::super::device::{DeviceType, TransportInterrupt, VirtioDevice};
use super::core::{CoreState, TransportOps, VirtioTransportCore};
use super::rings::{Half, Ring};
use super::{NotifyPoint, TransportState, VirtioTransport};
use crate::bus::BusDevice;
use crate::bytes;
use crate::interrupt::InterruptLine;
use crate::state::{RestoreError, SaveError};

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;

/// The version of the layout; 1 was the one from before VIRTIO 1.0.
const VERSION: u32 = 2;

/// Who made the device: drivers don't care.
const VENDOR_ID: u32 = u32::from_le_bytes(*b"VMCT");

/// Register offsets, VIRTIO 1.3 table 4.1.
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR_ID: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub(super) const SHM_LEN_LOW: u64 = 0xb0;
    pub(super) const SHM_BASE_HIGH: u64 = 0xbc;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Interrupt status: buffers were used.
const INTERRUPT_USED: u32 = 1;

/// Interrupt status: configuration or status changed.
const INTERRUPT_CONFIG: u32 = 2;

/// A virtio device in a window of [`WINDOW_SIZE`](Self::WINDOW_SIZE) bytes.
pub struct VirtioMmio {
    core: Mutex<VirtioTransportCore>,
    kicks: Arc<[Arc<EventFd>]>,
    interrupt: Arc<MmioInterrupt>,
}

impl VirtioMmio {
    /// The size of the window in bytes.
    pub const WINDOW_SIZE: u64 = 0x200;

    /// Where in the window the driver writes a queue's index, as 32 bits, to notify it.
    pub const NOTIFY_OFFSET: u64 = register::QUEUE_NOTIFY;

    /// Puts `device` behind registers that raise `line`, an edge-triggered interrupt.
    ///
    /// # Errors
    /// When the device lists impossible queues, or an eventfd can't be made.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestRam,
        line: Arc<dyn InterruptLine>,
    ) -> io::Result<Self> {
        let interrupt = Arc::new(MmioInterrupt { status: AtomicU32::new(0), line });
        let core = VirtioTransportCore::new(device, memory, Arc::clone(&interrupt) as _)?;
        Ok(Self { kicks: core.queue_kicks(), core: Mutex::new(core), interrupt })
    }

    fn core(&self) -> MutexGuard<'_, VirtioTransportCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        let core = self.core();
        let queue = core.queue();
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => u32::from(core.device_type().id()),
            register::VENDOR_ID => VENDOR_ID,
            register::DEVICE_FEATURES => core.device_features(),
            register::QUEUE_SIZE_MAX => queue.map_or(0, |queue| u32::from(queue.max_size())),
            register::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.enabled())),
            register::INTERRUPT_STATUS => self.interrupt.status.load(Ordering::Acquire),
            register::STATUS => u32::from(core.status()),
            // There is no shared memory region: all have length -1 (VIRTIO 1.3 §4.2.2).
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => core.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        if offset == register::QUEUE_NOTIFY {
            return self.notify(value);
        }
        let mut core = self.core();
        match offset {
            register::DEVICE_FEATURES_SEL => core.select_device_features(value),
            register::DRIVER_FEATURES => core.write_driver_features(value),
            register::DRIVER_FEATURES_SEL => core.select_driver_features(value),
            register::QUEUE_SEL => core.select_queue(value),
            // No queue has a size of 0, so that a value past 16 bits stays as invalid as it is.
            register::QUEUE_SIZE => core.set_queue_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_READY if value == 0 => core.disable_queue(),
            register::QUEUE_READY if value == 1 => core.enable_queue(),
            register::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::AcqRel);
            }
            register::STATUS => core.write_status(value),
            _ => {
                if let Some((ring, half)) = ring_register(offset) {
                    core.set_ring_address(ring, half, value);
                }
            }
        }
    }

    /// Kicks queue `index`; takes no lock, as the write could have been KVM's just as well.
    fn notify(&self, index: u32) {
        if let Some(kick) = usize::try_from(index).ok().and_then(|index| self.kicks.get(index)) {
            // Fails only when the eventfd is full, and then its reader wakes up anyway.
            let _ = kick.write(1);
        }
    }
}

impl BusDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.core().read_config(offset, data);
        } else if is_register(offset, data) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.core().write_config(offset, data);
        } else if is_register(offset, data)
            && let Some(value) = bytes::value_u32(data)
        {
            self.write_register(offset, value);
        }
    }
}

impl VirtioTransport for VirtioMmio {
    fn device_type(&self) -> DeviceType {
        self.core().device_type()
    }

    fn notify_points(&self) -> Vec<NotifyPoint> {
        (0..)
            .zip(self.kicks.iter())
            .map(|(queue, kick)| NotifyPoint {
                queue,
                kick: Arc::clone(kick),
                offset: Self::NOTIFY_OFFSET,
                datamatch: Some(u32::from(queue)),
            })
            .collect()
    }

    fn is_active(&self) -> bool {
        self.core().status() & super::status::DRIVER_OK != 0
    }

    fn reset(&self) {
        self.core().reset();
    }

    fn request_pause(&self) {
        self.core().request_pause();
    }

    fn pause(&self) {
        self.core().pause();
    }

    fn resume(&self) {
        self.core().resume();
    }

    fn save(&self) -> Result<TransportState, SaveError> {
        let Self { core: _, kicks: _, interrupt } = self;
        let core = self.core().save()?;
        let interrupt_status = interrupt.status.load(Ordering::Acquire);
        Ok(TransportState::Mmio(MmioState { core, interrupt_status }))
    }

    fn restore(&self, state: TransportState) -> Result<(), RestoreError> {
        let kind = state.kind();
        let TransportState::Mmio(MmioState { core, interrupt_status }) = state else {
            return RestoreError::expect("transport", kind, "virtio-mmio");
        };
        self.core().restore(core)?;
        let causes = INTERRUPT_USED | INTERRUPT_CONFIG;
        self.interrupt.status.store(interrupt_status & causes, Ordering::Release);
        Ok(())
    }

    fn revive(&self) {
        self.core().revive();
    }
}

/// What [`VirtioMmio`] saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MmioState {
    /// The device and its queues.
    pub core: CoreState,
    /// The interrupt status register.
    pub interrupt_status: u32,
}

/// Tells whether an access is one that the registers define: 32 bits, aligned (§4.2.2.2).
fn is_register(offset: u64, data: &[u8]) -> bool {
    data.len() == 4 && offset.is_multiple_of(4)
}

fn ring_register(offset: u64) -> Option<(Ring, Half)> {
    Some(match offset {
        register::QUEUE_DESC_LOW => (Ring::Descriptors, Half::Low),
        register::QUEUE_DESC_HIGH => (Ring::Descriptors, Half::High),
        register::QUEUE_DRIVER_LOW => (Ring::Available, Half::Low),
        register::QUEUE_DRIVER_HIGH => (Ring::Available, Half::High),
        register::QUEUE_DEVICE_LOW => (Ring::Used, Half::Low),
        register::QUEUE_DEVICE_HIGH => (Ring::Used, Half::High),
        _ => return None,
    })
}

/// The interrupt status register and the line that tells the driver to read it.
struct MmioInterrupt {
    status: AtomicU32,
    line: Arc<dyn InterruptLine>,
}

impl MmioInterrupt {
    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::AcqRel);
        self.line.trigger();
    }
}

impl TransportInterrupt for MmioInterrupt {
    fn signal_queue(&self, _index: u16) {
        self.raise(INTERRUPT_USED);
    }

    fn signal_config(&self) {
        self.raise(INTERRUPT_CONFIG);
    }
}

impl TransportOps for MmioInterrupt {
    fn reset(&self) {
        self.status.store(0, Ordering::Release);
    }
}
