//! The balloon as the API has it.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::v1::{
    BalloonHintingStatus, BalloonStats, BalloonStatsUpdate, BalloonUpdate, StartHinting,
};
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
            oom_kill: guest.oom_kills,
            alloc_stall: guest.allocation_stalls,
            async_scan: guest.async_scanned_bytes,
            direct_scan: guest.direct_scanned_bytes,
            async_reclaim: guest.async_reclaimed_bytes,
            direct_reclaim: guest.direct_reclaimed_bytes,
        })
    }

    /// Changes how often the guest is asked for statistics. They can't be turned on or off: the
    /// guest's driver was told when it started.
    pub(crate) fn update_balloon_stats(
        &mut self,
        update: BalloonStatsUpdate,
    ) -> Result<(), ApiError> {
        let port = self.balloon()?;
        let missing = || ApiError::internal("the balloon has no configuration");
        let balloon = self.config.balloon.as_mut().ok_or_else(missing)?;
        let (old, new) = (balloon.stats_polling_interval_s, update.stats_polling_interval_s);
        if (old == 0) != (new == 0) {
            return Err(ApiError::bad_request(
                "statistics can't be turned on or off while the VM runs: stats_polling_interval_s \
                 can't change from or to 0",
            ));
        }
        port.set_stats_interval(Duration::from_secs(new.into()))
            .map_err(|error| ApiError::from_chain(&error))?;
        balloon.stats_polling_interval_s = new;
        Ok(())
    }

    /// Asks the guest which pages it has free, and takes their memory.
    pub(crate) fn start_hinting(&mut self, start: StartHinting) -> Result<(), ApiError> {
        let port = self.hinting_balloon()?;
        heard(port.start_hinting(start.acknowledge_on_stop))
    }

    /// Lets the guest use the pages that it has named.
    pub(crate) fn stop_hinting(&mut self) -> Result<(), ApiError> {
        let port = self.hinting_balloon()?;
        heard(port.stop_hinting())
    }

    /// Returns how far the latest run is.
    pub(crate) fn hinting_status(&self) -> Result<BalloonHintingStatus, ApiError> {
        let status = self.hinting_balloon()?.hinting_status();
        Ok(BalloonHintingStatus { host_cmd: status.host_command, guest_cmd: status.guest_command })
    }

    fn hinting_balloon(&self) -> Result<Arc<BalloonPort>, ApiError> {
        let port = self.balloon()?;
        if self.config.balloon.is_some_and(|balloon| balloon.free_page_hinting) {
            return Ok(port);
        }
        Err(ApiError::bad_request(
            "hinting is off: configure the balloon with free_page_hinting before the VM starts",
        ))
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

fn heard(heard: bool) -> Result<(), ApiError> {
    if heard {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the guest has no balloon driver that names free pages, or hasn't started it yet",
    ))
}
