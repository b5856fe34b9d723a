//! The balloon as the API has it.

use std::sync::Arc;

use api::ApiError;
use api::v1::{BalloonStats, BalloonUpdate};
use devices::virtio::balloon::BalloonPort;

use super::registry::Handle;
use super::state::DeviceKey;
use super::{Machine, virtio};

impl Machine {
    /// Changes how much the guest should give back.
    pub(crate) fn update_balloon(&mut self, update: BalloonUpdate) -> Result<(), ApiError> {
        let port = self.balloon()?;
        let mem_mib = self.config.machine.mem_mib;
        if update.amount_mib >= mem_mib {
            return Err(ApiError::bad_request(format!(
                "the guest has {mem_mib} MiB and can't give back {} MiB: ask for less",
                update.amount_mib
            )));
        }
        let pages = update.amount_mib.saturating_mul(virtio::PAGES_PER_MIB);
        port.set_target_pages(u32::try_from(pages).unwrap_or(u32::MAX));
        if let Some(balloon) = &mut self.config.balloon {
            balloon.amount_mib = update.amount_mib;
        }
        Ok(())
    }

    /// Returns the guest's latest statistics.
    pub(crate) fn balloon_stats(&self) -> Result<BalloonStats, ApiError> {
        let port = self.balloon()?;
        if self.config.balloon.is_none_or(|balloon| balloon.stats_polling_interval_s == 0) {
            return Err(ApiError::bad_request(
                "statistics are off: configure the balloon with a stats_polling_interval_s",
            ));
        }
        let (target, actual) = (u64::from(port.target_pages()), u64::from(port.actual_pages()));
        let guest = port.stats().unwrap_or_default();
        Ok(BalloonStats {
            target_pages: target,
            actual_pages: actual,
            target_mib: target / virtio::PAGES_PER_MIB,
            actual_mib: actual / virtio::PAGES_PER_MIB,
            swap_in: guest.swap_in_bytes,
            swap_out: guest.swap_out_bytes,
            major_faults: guest.major_faults,
            minor_faults: guest.minor_faults,
            free_memory: guest.free_bytes,
            total_memory: guest.total_bytes,
            available_memory: guest.available_bytes,
            disk_caches: guest.cache_bytes,
            hugetlb_allocations: guest.huge_page_allocations,
            hugetlb_failures: guest.huge_page_failures,
            ..BalloonStats::default()
        })
    }

    /// Returns the balloon's port.
    pub(super) fn balloon(&self) -> Result<Arc<BalloonPort>, ApiError> {
        match self.devices.handle(&DeviceKey::Balloon) {
            Some(Handle::Balloon(port)) => Ok(Arc::clone(port)),
            _ => {
                Err(ApiError::bad_request("this VM has no balloon: PUT /balloon before it starts"))
            }
        }
    }
}
