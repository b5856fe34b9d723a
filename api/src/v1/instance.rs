//! The instance as a whole: what it is, and what's to become of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to `GET /`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceInfo {
    /// The name of the VMM.
    pub app_name: String,
    /// The VM's identifier.
    pub id: String,
    /// How far the VM is.
    pub state: InstanceState,
    /// The version of the VMM.
    pub vmm_version: String,
}

/// How far a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum InstanceState {
    /// It's being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs and devices stand still.
    Paused,
}

/// The answer to `GET /version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// The version of the VMM; the key is the one that clients look for.
    pub firecracker_version: String,
}

/// The body of `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceAction {
    /// What's to be done.
    pub action_type: ActionType,
}

/// What's done by `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ActionType {
    /// The configured VM starts.
    InstanceStart,
    /// The guest is asked to shut down, as by the keys of that name.
    SendCtrlAltDel,
    /// The metrics are written now.
    FlushMetrics,
}

/// The body of `PATCH /vm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmTarget {
    /// What the VM is to become.
    pub state: TargetState,
}

/// What a VM is to become by `PATCH /vm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TargetState {
    /// It stands still.
    Paused,
    /// It runs on.
    Resumed,
}
