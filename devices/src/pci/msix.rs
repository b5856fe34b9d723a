//! MSI-X (§6.8.2): a table of messages, masks, and the bits of what waits behind a mask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{ConfigSpace, PciError};
use crate::bytes;
use crate::interrupt::{MsiMessage, MsiSender};
use crate::log_limit::LogLimit;

const CAPABILITY_ID: u8 = 0x11;

/// Message control: the function uses MSI-X.
const CONTROL_ENABLE: u16 = 1 << 15;

/// Message control: all vectors are masked.
const CONTROL_MASK: u16 = 1 << 14;

/// Vector control: this vector is masked.
const VECTOR_MASKED: u32 = 1;

/// Where table and pending bits lie.
#[derive(Clone, Copy, Debug)]
pub struct MsixRegion {
    /// Index of the BAR that has both.
    pub bar: u8,
    /// Offset of the table in the BAR, a multiple of 8.
    pub table: u32,
    /// Offset of the pending bits in the BAR, a multiple of 8.
    pub pending: u32,
}

/// Whether the function as a whole lets messages out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Disabled,
    Masked,
    Enabled,
}

/// One entry of the table. Kept behind one lock each, so that queues signal independently.
struct Vector {
    message: MsiMessage,
    masked: bool,
    pending: bool,
    /// A copy for every vector: one lock then orders signals with every kind of mask.
    function: Function,
    /// What the sender was last told: telling it again would cost a system call.
    routed: Option<MsiMessage>,
}

/// A saved entry of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixVectorState {
    /// The guest-physical address that the message is written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
    /// Whether the driver masked it.
    pub masked: bool,
    /// Whether it was signalled behind a mask.
    pub pending: bool,
}

/// The MSI-X vectors of one function.
///
/// A vector that is signalled while it or the function is masked becomes pending and is sent once
/// when the last mask goes. While MSI-X is disabled, signals are dropped.
pub struct MsixTable {
    vectors: Box<[Mutex<Vector>]>,
    enabled: AtomicBool,
    sender: Arc<dyn MsiSender>,
}

impl MsixTable {
    /// The size of a table entry in bytes.
    pub const ENTRY_SIZE: u16 = 16;

    /// The largest number of vectors that a function can have.
    pub const MAX_VECTORS: u16 = 2048;

    /// Creates a table of `count` vectors, all masked, whose messages `sender` delivers.
    ///
    /// # Errors
    /// [`PciError::InvalidVectorCount`].
    pub fn new(count: u16, sender: Arc<dyn MsiSender>) -> Result<Self, PciError> {
        if !(1..=Self::MAX_VECTORS).contains(&count) {
            return Err(PciError::InvalidVectorCount(count));
        }
        let vector = || Vector {
            message: MsiMessage::default(),
            masked: true,
            pending: false,
            function: Function::Disabled,
            routed: None,
        };
        let vectors = (0..count).map(|_| Mutex::new(vector())).collect();
        Ok(Self { vectors, enabled: AtomicBool::new(false), sender })
    }

    /// Returns the number of vectors.
    pub fn len(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// Tells whether there are no vectors: never, a table has at least one.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Adds the capability that describes this table to `config`; returns the offset of its
    /// message control, which [`set_control`](Self::set_control) wants to know about.
    ///
    /// # Errors
    /// [`PciError::NoRoom`].
    pub fn add_capability(
        &self,
        config: &mut ConfigSpace,
        region: MsixRegion,
    ) -> Result<u16, PciError> {
        let last = self.len().saturating_sub(1).to_le_bytes();
        let table = (region.table | u32::from(region.bar)).to_le_bytes();
        let pending = (region.pending | u32::from(region.bar)).to_le_bytes();
        let body = [last.as_slice(), &table, &pending].concat();
        let writable = (CONTROL_ENABLE | CONTROL_MASK).to_le_bytes();
        let at = config.add_capability(CAPABILITY_ID, &body, &writable)?;
        Ok(at.saturating_add(2))
    }

    /// Tells whether the driver turned MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Takes over the message control word. Must not run twice at once.
    pub fn set_control(&self, control: u16) {
        let function = if control & CONTROL_ENABLE == 0 {
            Function::Disabled
        } else if control & CONTROL_MASK != 0 {
            Function::Masked
        } else {
            Function::Enabled
        };
        self.enabled.store(function != Function::Disabled, Ordering::Release);
        for index in 0..self.len() {
            let Some(mut vector) = self.lock(index) else { continue };
            vector.function = function;
            vector.pending &= function != Function::Disabled;
            self.update(index, &mut vector);
        }
    }

    /// Sends `index`'s message now, or when it's unmasked. An index past the table sends nothing.
    pub fn signal(&self, index: u16) {
        let Some(mut vector) = self.lock(index) else { return };
        match vector.function {
            Function::Disabled => {}
            Function::Enabled if !vector.masked => self.sender.signal(index),
            Function::Enabled | Function::Masked => vector.pending = true,
        }
    }

    /// Forgets every pending bit: the device that caused them was reset.
    pub fn clear_pending(&self) {
        for index in 0..self.len() {
            if let Some(mut vector) = self.lock(index) {
                vector.pending = false;
            }
        }
    }

    /// Returns every entry of the table with its pending bit. Message control isn't among it.
    pub fn save(&self) -> Vec<MsixVectorState> {
        let saved = |index: u16| {
            let vector = self.lock(index)?;
            Some(MsixVectorState {
                address: vector.message.address,
                data: vector.message.data,
                masked: vector.masked,
                pending: vector.pending,
            })
        };
        (0..self.len()).filter_map(saved).collect()
    }

    /// Replaces the table's entries by saved ones, as many as there are. Messages are routed when
    /// [`set_control`](Self::set_control) says that they may go out, and those that wait are sent.
    pub fn restore(&self, saved: &[MsixVectorState]) {
        for (index, state) in (0..self.len()).zip(saved) {
            let Some(mut vector) = self.lock(index) else { continue };
            vector.message = MsiMessage { address: state.address & !0b11, data: state.data };
            vector.masked = state.masked;
            vector.pending = state.pending;
        }
    }

    /// Reads the table. Only aligned accesses of 4 or 8 bytes are defined; others read as zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((index, at)) = table_place(offset, data.len()) else { return };
        if let Some(vector) = self.lock(index) {
            bytes::read_at(&vector.entry(), u64::from(at), data);
        }
    }

    /// Writes the table. Only aligned accesses of 4 or 8 bytes are defined; others do nothing.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let Some((index, at)) = table_place(offset, data.len()) else { return };
        if let Some(mut vector) = self.lock(index) {
            let mut entry = vector.entry();
            bytes::write_at(&mut entry, usize::from(at), data);
            vector.set_entry(&entry);
            self.update(index, &mut vector);
        }
    }

    /// Reads the pending bits, one per vector, with any width; zero past the last vector.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, byte) in data.iter_mut().enumerate() {
            let vector = first.saturating_add(position).saturating_mul(8);
            *byte = (0..8).fold(0, |bits, bit| {
                bits | u8::from(self.is_pending(vector.saturating_add(bit))) << bit
            });
        }
    }

    fn is_pending(&self, index: usize) -> bool {
        let index = u16::try_from(index).ok();
        index.and_then(|index| self.lock(index)).is_some_and(|vector| vector.pending)
    }

    fn lock(&self, index: u16) -> Option<MutexGuard<'_, Vector>> {
        let vector = self.vectors.get(usize::from(index))?;
        Some(vector.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// After any change: if the vector is free to send, its route is brought up to date and what
    /// was pending goes out.
    fn update(&self, index: u16, vector: &mut Vector) {
        static LOG: LogLimit = LogLimit::new();
        if vector.masked || vector.function != Function::Enabled {
            return;
        }
        if vector.routed != Some(vector.message) {
            vector.routed = match self.sender.route(index, vector.message) {
                Ok(()) => Some(vector.message),
                Err(error) => {
                    LOG.warn(format_args!("MSI-X vector {index} stays unbound: {error}"));
                    None
                }
            };
        }
        if std::mem::take(&mut vector.pending) {
            self.sender.signal(index);
        }
    }
}

impl Vector {
    fn entry(&self) -> [u8; 16] {
        let control = if self.masked { VECTOR_MASKED } else { 0 };
        let entry = u128::from(self.message.address)
            | u128::from(self.message.data) << 64
            | u128::from(control) << 96;
        entry.to_le_bytes()
    }

    fn set_entry(&mut self, entry: &[u8; 16]) {
        let (address, rest) = entry.split_at(8);
        let (data, control) = rest.split_at(4);
        // The two lowest bits are always zero: a message is a double word's write.
        self.message.address = bytes::value(address) & !0b11;
        self.message.data = bytes::value_u32(data).unwrap_or_default();
        self.masked = bytes::value(control) & u64::from(VECTOR_MASKED) != 0;
    }
}

/// Returns which entry an access means and where in that it begins.
fn table_place(offset: u64, len: usize) -> Option<(u16, u8)> {
    let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(u64::try_from(len).ok()?);
    let entry_size = u64::from(MsixTable::ENTRY_SIZE);
    let index = u16::try_from(offset.checked_div(entry_size)?).ok()?;
    let at = u8::try_from(offset.checked_rem(entry_size)?).ok()?;
    aligned.then_some((index, at))
}

#[cfg(test)]
mod tests;
