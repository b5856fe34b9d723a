//! What a device and whoever asks for memory share: which blocks are plugged, and how much should be.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sys::memory::{GuestRam, RegionTracking};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::super::device::Notifier;
use super::blocks::{Blocks, Plugged, Run};
use super::request::{Answer, BlockState};
use crate::log_limit::LogLimit;
use crate::state::RestoreError;

/// Where pluggable memory is and what it comes in. All are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemRegion {
    /// Its first address, a multiple of the slots' size.
    pub start: GuestAddress,
    /// How much there is, a multiple of the slots' size.
    pub size: u64,
    /// The least that the driver plugs: a power of two.
    pub block_size: u64,
    /// What the host shows to the guest or hides from it at a time, a multiple of the blocks' size.
    pub slot_size: u64,
}

/// Shows parts of the region to the guest and hides them.
pub trait MemorySlots: Send + Sync {
    /// Shows slot `index` of the region to the guest, or hides it. It's called for a change only.
    ///
    /// # Errors
    /// When that can't be; then nothing has changed.
    fn show(&self, index: u64, shown: bool) -> io::Result<()>;
}

/// The host's side of pluggable memory, in place whether the device is active or not.
///
/// What is plugged outlives the driver: a reset changes nothing of it (VIRTIO 1.3 §5.15.5.2).
pub struct MemPort {
    region: MemRegion,
    memory: GuestRam,
    slots: Arc<dyn MemorySlots>,
    state: Mutex<State>,
}

struct State {
    requested: u64,
    usable: u64,
    blocks: Blocks,
    notifier: Option<Notifier>,
}

/// What a device saves.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MemState {
    start: u64,
    size: u64,
    block_size: u64,
    requested: u64,
    usable: u64,
    plugged: Vec<Run>,
}

/// The sizes that change, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) usable: u64,
    pub(super) plugged: u64,
    pub(super) requested: u64,
}

impl MemPort {
    /// Creates a port of which nothing is plugged; `memory` is the guest's, in which `region` lies,
    /// hidden by `slots`.
    pub fn new(region: MemRegion, memory: GuestRam, slots: Arc<dyn MemorySlots>) -> Self {
        let count = region.size.checked_div(region.block_size).unwrap_or_default();
        let blocks = Blocks::new(count);
        let state = Mutex::new(State { requested: 0, usable: 0, blocks, notifier: None });
        Self { region, memory, slots, state }
    }

    /// Returns where the memory is.
    pub fn region(&self) -> &MemRegion {
        &self.region
    }

    /// Asks the driver to have `bytes` plugged, a multiple of the block size that is at most the
    /// region's. It gets as near as it can, in its own time.
    pub fn set_requested(&self, bytes: u64) {
        let bytes = bytes.min(self.region.size);
        let mut state = self.lock();
        state.requested = bytes;
        // It doesn't shrink: what is beyond may be plugged.
        state.usable = state.usable.max(self.usable_for(bytes));
        let notifier = state.notifier.clone();
        drop(state);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
    }

    /// Returns how many bytes should be plugged.
    pub fn requested(&self) -> u64 {
        self.lock().requested
    }

    /// Returns how many bytes are plugged.
    pub fn plugged(&self) -> u64 {
        self.sizes().plugged
    }

    pub(super) fn sizes(&self) -> Sizes {
        let state = self.lock();
        let plugged = state.blocks.plugged().saturating_mul(self.region.block_size);
        Sizes { usable: state.usable, plugged, requested: state.requested }
    }

    /// Says whom to notify from now on.
    pub(super) fn attach(&self, notifier: Option<Notifier>) {
        self.lock().notifier = notifier;
    }

    /// Plugs `count` blocks at `address` (§5.15.6.2).
    pub(super) fn plug(&self, address: u64, count: u16) -> Answer {
        let mut state = self.lock();
        let Some(run) = self.usable_run(&state, address, count) else { return Answer::Error };
        if state.blocks.state(run) != Some(Plugged::None) {
            return Answer::Error;
        }
        let plugged = state.blocks.plugged().saturating_add(run.count);
        if plugged.saturating_mul(self.region.block_size) > state.requested {
            return Answer::Nack;
        }
        match self.show(&mut state.blocks, run) {
            Ok(()) => Answer::Ack,
            Err(error) => {
                warn("shown", &error);
                Answer::Busy
            }
        }
    }

    /// Unplugs `count` blocks at `address` (§5.15.6.3).
    pub(super) fn unplug(&self, address: u64, count: u16) -> Answer {
        let mut state = self.lock();
        let Some(run) = self.usable_run(&state, address, count) else { return Answer::Error };
        if state.blocks.state(run) != Some(Plugged::All) {
            return Answer::Error;
        }
        self.hide(&mut state.blocks, run)
    }

    /// Unplugs everything (§5.15.6.4).
    pub(super) fn unplug_all(&self) -> Answer {
        let mut state = self.lock();
        for run in state.blocks.runs() {
            let answer = self.hide(&mut state.blocks, run);
            if answer != Answer::Ack {
                return answer;
            }
        }
        state.usable = self.usable_for(state.requested);
        Answer::Ack
    }

    /// Tells the state of `count` blocks at `address` (§5.15.6.5).
    pub(super) fn block_state(&self, address: u64, count: u16) -> Answer {
        let state = self.lock();
        let run = self.usable_run(&state, address, count);
        match run.and_then(|run| state.blocks.state(run)) {
            Some(Plugged::All) => Answer::State(BlockState::Plugged),
            Some(Plugged::None) => Answer::State(BlockState::Unplugged),
            Some(Plugged::Some) => Answer::State(BlockState::Mixed),
            None => Answer::Error,
        }
    }

    pub(super) fn save(&self) -> MemState {
        let MemRegion { start, size, block_size, slot_size: _ } = self.region;
        let state = self.lock();
        MemState {
            start: start.0,
            size,
            block_size,
            requested: state.requested,
            usable: state.usable,
            plugged: state.blocks.runs(),
        }
    }

    /// Takes over what was saved, and shows the guest what was plugged.
    pub(super) fn restore(&self, saved: &MemState) -> Result<(), RestoreError> {
        RestoreError::expect("pluggable memory at", saved.start, self.region.start.0)?;
        RestoreError::expect("pluggable memory of", saved.size, self.region.size)?;
        RestoreError::expect("memory blocks of", saved.block_size, self.region.block_size)?;
        for (what, value) in [("requested", saved.requested), ("usable", saved.usable)] {
            if value > self.region.size || !value.is_multiple_of(self.region.block_size) {
                return Err(RestoreError::invalid("size of memory", format!("{what} {value}")));
            }
        }
        let mut state = self.lock();
        if state.blocks.plugged() != 0 {
            return Err(RestoreError::InUse);
        }
        for run in &saved.plugged {
            if run.count == 0 || state.blocks.state(*run) != Some(Plugged::None) {
                return Err(RestoreError::invalid("run of blocks", format!("{run:?}")));
            }
            self.show(&mut state.blocks, *run)
                .map_err(|error| RestoreError::Start(Box::new(error)))?;
        }
        (state.requested, state.usable) = (saved.requested, saved.usable);
        Ok(())
    }

    /// Returns how much is usable for `requested` bytes: whole slots, the lowest, so that few of them
    /// are in use.
    fn usable_for(&self, requested: u64) -> u64 {
        let slots = requested.checked_next_multiple_of(self.region.slot_size);
        slots.unwrap_or(self.region.size).min(self.region.size)
    }

    /// Returns the blocks that a driver names, if it may name them.
    fn usable_run(&self, state: &State, address: u64, count: u16) -> Option<Run> {
        let MemRegion { start, block_size, .. } = self.region;
        let offset = address.checked_sub(start.0)?;
        let len = u64::from(count).checked_mul(block_size)?;
        let valid = count != 0
            && offset.is_multiple_of(block_size)
            && offset.checked_add(len)? <= state.usable;
        valid.then_some(Run { first: offset.checked_div(block_size)?, count: count.into() })
    }

    /// Lists the slots that blocks are in, each as a number and its blocks.
    fn slots_of(&self, run: Run) -> impl Iterator<Item = (u64, Run)> + use<> {
        let blocks = self.region.slot_size.checked_div(self.region.block_size).unwrap_or(1).max(1);
        let last = run.first.saturating_add(run.count).saturating_sub(1);
        let numbers =
            run.first.checked_div(blocks).unwrap_or(0)..=last.checked_div(blocks).unwrap_or(0);
        numbers.map(move |number| {
            (number, Run { first: number.saturating_mul(blocks), count: blocks })
        })
    }

    /// Plugs blocks that aren't, which shows the slots that they're the first of.
    fn show(&self, blocks: &mut Blocks, run: Run) -> io::Result<()> {
        let mut shown = Vec::new();
        for (slot, all) in self.slots_of(run) {
            if blocks.state(all) != Some(Plugged::None) {
                continue;
            }
            if let Err(error) = self.slots.show(slot, true) {
                shown.into_iter().for_each(|slot| self.hide_slot(slot));
                return Err(error);
            }
            shown.push(slot);
        }
        blocks.set(run, true);
        Ok(())
    }

    /// Unplugs blocks that are plugged: hides the slots that they were the last of, and gives their
    /// memory back to the host.
    fn hide(&self, blocks: &mut Blocks, run: Run) -> Answer {
        let MemRegion { start, block_size, .. } = self.region;
        let offset = run.first.saturating_mul(block_size);
        let address = GuestAddress(start.0.saturating_add(offset));
        let size = run.count.saturating_mul(block_size);
        if self.is_held(run) {
            // It's being copied. The driver tries again after a while.
            return Answer::Busy;
        }
        blocks.set(run, false);
        for (slot, all) in self.slots_of(run) {
            if blocks.state(all) == Some(Plugged::None) {
                self.hide_slot(slot);
            }
        }
        if let Err(error) = sys::discard::discard(&self.memory, address, size) {
            // The host keeps it until it's plugged and unplugged again: nobody is harmed.
            warn("given back", &error);
        }
        Answer::Ack
    }

    fn is_held(&self, run: Run) -> bool {
        self.slots_of(run).any(|(slot, _)| {
            let offset = slot.saturating_mul(self.region.slot_size);
            let address = GuestAddress(self.region.start.0.saturating_add(offset));
            self.memory.find_region(address).is_some_and(|region| region.tracking().is_held())
        })
    }

    /// A slot that can't be hidden stays in the guest's sight, empty.
    fn hide_slot(&self, slot: u64) {
        if let Err(error) = self.slots.show(slot, false) {
            warn("hidden", &error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn(what: &str, error: &io::Error) {
    static LOG: LogLimit = LogLimit::new();
    LOG.warn(format_args!("pluggable memory can't be {what}: {error}"));
}
