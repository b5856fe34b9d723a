//! Changes to devices and to the machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check;
use crate::config::{HugePages, MachineSpec, RateLimiter, Transport};
use crate::error::ApiError;
use crate::schema::{HostPath, ResourceId};

/// The body of `PATCH /drives/{drive_id}`. A bucket that's absent stays as it is; one whose size or
/// refill time is 0 is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchDrive {
    /// The drive; the same as in the path.
    #[schema(value_type = ResourceId)]
    pub drive_id: String,
    /// The image to use from now on: the same one grown, or another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub path_on_host: Option<PathBuf>,
    /// New limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

impl PatchDrive {
    /// Checks what can be without the host.
    ///
    /// # Errors
    /// A path that no file can have.
    pub fn check(&self) -> Result<(), ApiError> {
        self.path_on_host.as_ref().map_or(Ok(()), |path| check::file("path_on_host", path))
    }
}

/// The body of `PATCH /network-interfaces/{iface_id}`. A bucket that's absent stays as it is; one
/// whose size or refill time is 0 is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchNet {
    /// The interface; the same as in the path.
    #[schema(value_type = ResourceId)]
    pub iface_id: String,
    /// New limits of what the guest receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// New limits of what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// The body of `PATCH /pmem/{id}`. A bucket that's absent stays as it is; one whose size or refill
/// time is 0 is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchPmem {
    /// The device; the same as in the path.
    #[schema(value_type = ResourceId)]
    pub id: String,
    /// New limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// The body of `PATCH /machine-config`: what's absent stays as it is, and something must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachinePatch {
    /// How many vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32)]
    pub vcpu_count: Option<u64>,
    /// How much memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 67_108_864)]
    pub mem_size_mib: Option<u64>,
    /// Whether two vCPUs share a core; only `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::only_false)]
    pub smt: Option<bool>,
    /// Whether written pages are logged from the start, as differential snapshots need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// A template of Firecracker's by name; only `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^None$")]
    pub cpu_template: Option<String>,
    /// What guest memory is made of on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// Ours: how virtio devices are attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
}

impl MachinePatch {
    /// Changes a machine.
    pub fn apply(self, machine: &mut MachineSpec) {
        fn set<T>(old: &mut Option<T>, new: Option<T>) {
            *old = new.or_else(|| old.take());
        }
        let Self {
            vcpu_count,
            mem_size_mib,
            smt,
            track_dirty_pages,
            cpu_template,
            huge_pages,
            transport,
        } = self;
        set(&mut machine.vcpu_count, vcpu_count);
        set(&mut machine.mem_size_mib, mem_size_mib);
        set(&mut machine.smt, smt);
        set(&mut machine.track_dirty_pages, track_dirty_pages);
        set(&mut machine.cpu_template, cpu_template);
        set(&mut machine.huge_pages, huge_pages);
        set(&mut machine.transport, transport);
    }
}
