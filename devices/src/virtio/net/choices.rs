//! What a driver has chosen by the control queue, for a saved machine to choose again.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sys::tap::Offloads;

use super::features::Features;

/// The choices in force, shared by the card and its control queue's worker.
#[derive(Debug, Default)]
pub(super) struct Choices {
    pairs: AtomicU16,
    offloads: AtomicU64,
}

/// The choices at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ChoicesState {
    /// How many queue pairs are in use; 0 while no driver is there.
    pub(super) pairs: u16,
    /// The feature bits of what the driver accepts undone in frames that it receives.
    pub(super) offloads: u64,
}

impl Choices {
    pub(super) fn get(&self) -> ChoicesState {
        ChoicesState {
            pairs: self.pairs.load(Ordering::Acquire),
            offloads: self.offloads.load(Ordering::Acquire),
        }
    }

    pub(super) fn set(&self, state: &ChoicesState) {
        self.set_pairs(state.pairs);
        self.set_offloads(Features(state.offloads));
    }

    pub(super) fn set_pairs(&self, pairs: u16) {
        self.pairs.store(pairs, Ordering::Release);
    }

    pub(super) fn set_offloads(&self, offloads: Features) {
        self.offloads.store(offloads.0, Ordering::Release);
    }
}

impl ChoicesState {
    /// Returns what is in force for a driver that hasn't chosen yet.
    pub(super) fn initial(features: Features) -> Self {
        Self { pairs: 1, offloads: features.switchable().0 }
    }

    /// Tells whether the state is that of a driver that was ready.
    pub(super) fn are_made(&self) -> bool {
        self.pairs != 0
    }

    /// Returns the nearest that a driver with these features and `usable_pairs` could have chosen:
    /// the state is a file's.
    pub(super) fn limited_to(self, features: Features, usable_pairs: usize) -> Self {
        let most = u16::try_from(usable_pairs).unwrap_or(u16::MAX).max(1);
        Self { pairs: self.pairs.clamp(1, most), offloads: self.offloads & features.switchable().0 }
    }

    /// Returns the offloads in terms of what the host can do.
    pub(super) fn receive_offloads(&self) -> Offloads {
        Features(self.offloads).receive_offloads()
    }
}
