//! The metadata service: facts about its VM that a guest fetches over HTTP from a link-local
//! address, as from Firecracker's MMDS.
//!
//! Nothing of it leaves the process: a network card hands frames for the address to a TCP stack
//! of its own instead of its TAP, and the stack's frames to the guest.
//!
//! ```text
//! API ── Mmds (store, configuration, tokens) ──┐
//! Net ── MmdsStack ── FrameQueues (smoltcp)    │
//!            └── Connection ── http ── service ┘
//! ```

mod config;
mod connection;
mod http;
mod metrics;
mod peers;
mod queues;
mod service;
mod stack;
mod store;
mod token;

#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

pub use config::{DEFAULT_IPV4_ADDRESS, MmdsConfig, MmdsConfigError, MmdsVersion};
pub use metrics::MmdsMetrics;
pub(crate) use stack::is_for;
pub use stack::{MMDS_MAC, MmdsStack};
pub use store::{DEFAULT_STORE_LIMIT, MmdsStoreError};

use self::store::Store;
use self::token::TokenAuthority;

/// How many bytes of a frame tell whether it is for the service: the headers of Ethernet and ARP.
pub const FRAME_HEAD_SIZE: usize = 42;

/// What the API and the network cards of one VM share: the data, who may see it, and counters.
///
/// Its lock is held for the length of one copy or one lookup.
#[derive(Debug)]
pub struct Mmds {
    state: Mutex<State>,
    tokens: TokenAuthority,
    metrics: MmdsMetrics,
}

#[derive(Debug)]
struct State {
    config: MmdsConfig,
    store: Store,
}

impl Mmds {
    /// Creates a service without data, with a token key of its own: no other VM's tokens are
    /// valid here, nor those from before a restore.
    ///
    /// `limit_bytes` bounds the data, written as JSON without white space
    /// ([`DEFAULT_STORE_LIMIT`] if nobody says otherwise).
    ///
    /// # Errors
    /// When the host has no random numbers.
    pub fn new(limit_bytes: usize) -> io::Result<Self> {
        let state = State { config: MmdsConfig::default(), store: Store::new(limit_bytes) };
        Ok(Self {
            state: Mutex::new(state),
            tokens: TokenAuthority::new()?,
            metrics: MmdsMetrics::default(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> MmdsConfig {
        self.lock().config.clone()
    }

    /// Sets the configuration. Cards look at the address when they are made, and at the rest with
    /// each request.
    ///
    /// # Errors
    /// [`MmdsConfigError`]; then nothing changed.
    pub fn set_config(&self, config: MmdsConfig) -> Result<(), MmdsConfigError> {
        config.check()?;
        self.lock().config = config;
        Ok(())
    }

    /// Returns a copy of the data: null until there is some.
    pub fn get(&self) -> Value {
        self.lock().store.value().clone()
    }

    /// Replaces the data.
    ///
    /// # Errors
    /// [`MmdsStoreError::TooLarge`]; then nothing changed.
    pub fn put(&self, value: Value) -> Result<(), MmdsStoreError> {
        self.lock().store.put(value)
    }

    /// Changes the data by a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// [`MmdsStoreError::NotInitialized`] before the first [`put`](Self::put),
    /// [`MmdsStoreError::TooLarge`]; then nothing changed.
    pub fn patch(&self, patch: &Value) -> Result<(), MmdsStoreError> {
        self.lock().store.patch(patch)
    }

    /// Returns the counters.
    pub fn metrics(&self) -> &MmdsMetrics {
        &self.metrics
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
