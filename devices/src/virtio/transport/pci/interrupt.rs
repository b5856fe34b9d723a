//! Which vector a queue's interrupt takes, and the ISR status (VIRTIO 1.3 §4.1.4.5).

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use serde::{Deserialize, Serialize};

use super::super::super::device::TransportInterrupt;
use super::super::core::TransportOps;
use crate::pci::{MsixTable, MsixVectorState};
use crate::state::RestoreError;

/// No vector at all (§4.1.5.1.2.1).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// ISR: buffers were used.
const ISR_QUEUE: u8 = 1;

/// ISR: configuration or status changed.
const ISR_CONFIG: u8 = 2;

/// Interrupts of one device. Signals take no lock but that of their vector.
pub(super) struct PciInterrupt {
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    msix: MsixTable,
}

impl PciInterrupt {
    pub(super) fn new(queues: u16, msix: MsixTable) -> Self {
        Self {
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            msix,
        }
    }

    pub(super) fn msix(&self) -> &MsixTable {
        &self.msix
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    /// Returns the vector of queue `index`; [`NO_VECTOR`] where there is no such queue.
    pub(super) fn queue_vector(&self, index: u32) -> u16 {
        self.queue(index).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn set_queue_vector(&self, index: u32, vector: u16) {
        if let Some(place) = self.queue(index) {
            place.store(self.existing(vector), Ordering::Release);
        }
    }

    fn queue(&self, index: u32) -> Option<&AtomicU16> {
        self.queue_vectors.get(usize::try_from(index).ok()?)
    }

    /// A vector that doesn't exist reads back as none: so the driver learns that it failed
    /// (§4.1.5.1.2.1).
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.len() { vector } else { NO_VECTOR }
    }
}

/// What is saved of a device's interrupts, apart from MSI-X message control: that is in the
/// configuration space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciInterruptState {
    /// The ISR status.
    pub isr: u8,
    /// The vector for changes of configuration or status.
    pub config_vector: u16,
    /// The vector of each queue.
    pub queue_vectors: Vec<u16>,
    /// The MSI-X table and its pending bits.
    pub vectors: Vec<MsixVectorState>,
}

impl PciInterrupt {
    pub(super) fn save(&self) -> PciInterruptState {
        let Self { isr, config_vector, queue_vectors, msix } = self;
        PciInterruptState {
            isr: isr.load(Ordering::Acquire),
            config_vector: config_vector.load(Ordering::Acquire),
            queue_vectors: queue_vectors
                .iter()
                .map(|vector| vector.load(Ordering::Acquire))
                .collect(),
            vectors: msix.save(),
        }
    }

    /// Checks that `state` is of a device with as many queues and vectors as this one.
    pub(super) fn check(&self, state: &PciInterruptState) -> Result<(), RestoreError> {
        let (queues, vectors) = (state.queue_vectors.len(), state.vectors.len());
        RestoreError::expect("queue vector count", queues, self.queue_vectors.len())?;
        RestoreError::expect("MSI-X vector count", vectors, usize::from(self.msix.len()))
    }

    /// Takes over a state that passed its [check](Self::check). Vectors that don't exist become
    /// none, as when a driver names one.
    pub(super) fn restore(&self, state: &PciInterruptState) {
        self.isr.store(state.isr & (ISR_QUEUE | ISR_CONFIG), Ordering::Release);
        self.set_config_vector(state.config_vector);
        for (index, vector) in (0..).zip(&state.queue_vectors) {
            self.set_queue_vector(index, *vector);
        }
        self.msix.restore(&state.vectors);
    }
}

impl TransportInterrupt for PciInterrupt {
    fn signal_queue(&self, index: u16) {
        if self.msix.enabled() {
            self.msix.signal(self.queue_vector(u32::from(index)));
        } else {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
    }

    fn signal_config(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.signal(self.config_vector());
    }
}

impl TransportOps for PciInterrupt {
    fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.msix.clear_pending();
    }
}
