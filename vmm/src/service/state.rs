//! Decides whether an action fits the state of the VM. Nothing else does.
//!
//! ```text
//! NotStarted ──InstanceStart──> Running ──Pause──> Paused
//!     │                            ▲                 │  ▲
//!     │                            └─────Resume──────┘  │
//!     └──────────────LoadSnapshot───────────────────────┘
//! ```
//!
//! There's no state after the end: the process ends with its VM.

use api::ApiError;
use api::action::VmmAction;

/// How far the VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// There is a configuration and no machine.
    NotStarted,
    /// The vCPUs are in the guest.
    Running,
    /// The vCPUs and all device workers are parked.
    Paused,
}

/// When an action can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    /// Always.
    Always,
    /// Until the machine is started.
    BeforeStart,
    /// Once there is a machine, paused or not.
    AfterStart,
    /// While the machine is paused.
    Paused,
}

impl VmState {
    /// Tells whether `action` can be carried out in this state.
    ///
    /// # Errors
    /// What the client is told if it can't (status 400).
    pub fn check(self, action: &VmmAction) -> Result<(), ApiError> {
        let message = match (fits(action), self) {
            (Fits::Always, _)
            | (Fits::BeforeStart, Self::NotStarted)
            | (Fits::AfterStart, Self::Running | Self::Paused)
            | (Fits::Paused, Self::Paused) => return Ok(()),
            (Fits::BeforeStart, _) => {
                "The requested operation is not supported after starting the microVM."
            }
            (Fits::AfterStart | Fits::Paused, Self::NotStarted) => {
                "The requested operation is not supported before starting the microVM: send the \
                 action InstanceStart or load a snapshot first."
            }
            (Fits::Paused, Self::Running) => {
                "The requested operation needs a paused microVM: PATCH /vm with the state Paused \
                 first."
            }
        };
        Err(ApiError::bad_request(message))
    }
}

/// Lists every action, so that a new one has to be thought about here.
fn fits(action: &VmmAction) -> Fits {
    use VmmAction as A;
    match action {
        A::GetInstanceInfo
        | A::GetVersion
        | A::GetVmConfig
        | A::GetMachineConfig
        | A::GetBalloon
        | A::GetMmds
        | A::PutMmds(_)
        | A::PatchMmds(_)
        | A::ConfigureLogger(_)
        | A::GetMetrics
        | A::GetTimeline
        | A::GetDetails
        | A::AddFilesystem(_)
        | A::RemoveFilesystem(_)
        | A::Kill => Fits::Always,
        A::ConfigureBootSource(_)
        | A::InsertDrive(_)
        | A::InsertNet(_)
        | A::SetMachineConfig(_)
        | A::UpdateMachineConfig(_)
        | A::SetVsock(_)
        | A::SetEntropy(_)
        | A::SetBalloon(_)
        | A::InsertPmem(_)
        | A::SetMemoryHotplug(_)
        | A::SetMmdsConfig(_)
        | A::ConfigureMetrics(_)
        | A::ConfigureSerial(_)
        | A::SetCpuConfig(_)
        | A::InstanceStart
        | A::LoadSnapshot(_) => Fits::BeforeStart,
        A::UpdateDrive(_)
        | A::UpdateNet(_)
        | A::UpdatePmem(_)
        | A::UpdateBalloon(_)
        | A::GetBalloonStats
        | A::UpdateBalloonStats(_)
        | A::StartHinting(_)
        | A::StopHinting
        | A::GetHintingStatus
        | A::GetMemoryHotplug
        | A::UpdateMemoryHotplug(_)
        | A::SendCtrlAltDel
        | A::FlushMetrics
        | A::Pause
        | A::Resume
        | A::HotplugDrive(_)
        | A::HotunplugDrive(_)
        | A::HotplugNet(_)
        | A::HotunplugNet(_)
        | A::HotplugPmem(_)
        | A::HotunplugPmem(_)
        | A::Fork(_)
        | A::Shutdown(_) => Fits::AfterStart,
        A::CreateSnapshot(_) => Fits::Paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::{BalloonUpdate, CreateSnapshotParams, SnapshotType};

    const STATES: [VmState; 3] = [VmState::NotStarted, VmState::Running, VmState::Paused];

    fn allowed(action: &VmmAction) -> [bool; 3] {
        STATES.map(|state| state.check(action).is_ok())
    }

    #[test]
    fn machine_is_configured_before_and_changed_after_its_start() {
        assert_eq!(allowed(&VmmAction::InstanceStart), [true, false, false]);
        assert_eq!(allowed(&VmmAction::Pause), [false, true, true]);
        let update = VmmAction::UpdateBalloon(BalloonUpdate { amount_mib: 1 });
        assert_eq!(allowed(&update), [false, true, true]);
        assert_eq!(allowed(&VmmAction::GetInstanceInfo), [true; 3]);
        assert_eq!(allowed(&VmmAction::Kill), [true; 3]);
    }

    #[test]
    fn snapshot_of_a_running_machine_is_refused_with_what_to_do() {
        let create = VmmAction::CreateSnapshot(CreateSnapshotParams {
            snapshot_type: SnapshotType::Full,
            snapshot_path: "state".into(),
            mem_file_path: "memory".into(),
        });
        assert_eq!(allowed(&create), [false, false, true]);
        let error = VmState::Running.check(&create).unwrap_err();
        assert!(error.message.contains("PATCH /vm"), "{error}");
    }
}
