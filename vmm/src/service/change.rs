//! Changes to a machine that is there: pause and resume, devices, the balloon, the end.

use std::time::{Duration, Instant};

use api::ApiError;
use api::action::VmmAction;
use api::event::Event;
use api::v1::{BalloonHintingStatus, BalloonStats, MemoryHotplugStatus};

use super::metrics::Latency;
use super::{VmState, Vmm, fault};
use crate::machine::Machine;
use crate::status::monotonic_ns;

impl Vmm {
    /// Carries out what needs a machine; the state says that there is one.
    pub(super) fn change_machine(&mut self, action: VmmAction) -> Result<(), ApiError> {
        use VmmAction as A;
        match action {
            A::Pause => self.pause(),
            A::Resume => self.resume(),
            A::CreateSnapshot(params) => self.create_snapshot(&params),
            A::FlushMetrics => {
                self.flush_metrics();
                Ok(())
            }
            // What a PC's keyboard would send is the power button here: a guest needs no driver of
            // an old keyboard controller, and what it does then is the same, it shuts down.
            A::SendCtrlAltDel => self.on_machine(|machine| {
                machine.press_power_button();
                Ok(())
            }),
            A::Shutdown(params) => {
                self.shut_down(Duration::from_millis(params.timeout_ms));
                Ok(())
            }
            A::Kill => {
                self.kill();
                Ok(())
            }
            A::UpdateDrive(patch) => self.on_machine(|machine| machine.update_drive(&patch)),
            A::UpdateNet(patch) => self.on_machine(|machine| machine.update_net(&patch)),
            A::UpdateBalloon(update) => self.on_machine(|machine| machine.update_balloon(update)),
            A::UpdateBalloonStats(update) => {
                self.on_machine(|machine| machine.update_balloon_stats(update))
            }
            A::StartHinting(start) => self.on_machine(|machine| machine.start_hinting(start)),
            A::StopHinting => self.on_machine(Machine::stop_hinting),
            A::UpdateMemoryHotplug(update) => {
                self.on_machine(|machine| machine.update_memory_hotplug(update))
            }
            A::UpdatePmem(patch) => self.on_machine(|machine| machine.update_pmem(&patch)),
            A::HotplugPmem(spec) => self.plug(|machine| machine.plug_pmem(spec)),
            A::HotunplugPmem(id) => self.on_machine(|machine| machine.unplug_pmem(&id)),
            A::AddFilesystem(spec) => self.plug(|machine| machine.plug_filesystem(spec)),
            A::RemoveFilesystem(id) => self.on_machine(|machine| machine.unplug_filesystem(&id)),
            A::HotplugDrive(spec) => self.plug(|machine| machine.plug_drive(spec)),
            A::HotplugNet(spec) => self.plug(|machine| machine.plug_net(spec)),
            A::HotunplugDrive(id) => self.on_machine(|machine| machine.unplug_drive(&id)),
            A::HotunplugNet(id) => self.on_machine(|machine| machine.unplug_net(&id)),
            other => Err(ApiError::internal(format!("nothing carries {} out", other.name()))),
        }
    }

    fn on_machine(
        &mut self,
        change: impl FnOnce(&mut Machine) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        change(self.machine()?)
    }

    /// Adds a device and tells whoever listens.
    fn plug(
        &mut self,
        plug: impl FnOnce(&mut Machine) -> Result<String, ApiError>,
    ) -> Result<(), ApiError> {
        let id = plug(self.machine()?)?;
        self.status.send(&Event::DeviceAdded { id, monotonic_ns: monotonic_ns() });
        Ok(())
    }

    /// Drops the devices that the guest has given up.
    pub(super) fn remove_ejected(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        for id in machine.remove_ejected() {
            self.status.send(&Event::DeviceRemoved { id, monotonic_ns: monotonic_ns() });
        }
    }

    /// Parks vCPUs and device workers. A machine that is paused already stays so.
    pub(super) fn pause(&mut self) -> Result<(), ApiError> {
        if self.state == VmState::Paused {
            return Ok(());
        }
        let since = Instant::now();
        self.machine()?.pause().map_err(|error| fault(&error))?;
        self.state = VmState::Paused;
        // What the guest gave up until now is in no snapshot that follows.
        self.remove_ejected();
        self.finish_recording();
        self.metrics.set_latency(Latency::Pause, since.elapsed());
        self.status.send(&Event::Paused { monotonic_ns: monotonic_ns() });
        Ok(())
    }

    /// Lets a paused machine go on. One that runs stays so.
    pub(super) fn resume(&mut self) -> Result<(), ApiError> {
        if self.state == VmState::Running {
            return Ok(());
        }
        let since = Instant::now();
        self.machine()?.resume();
        self.state = VmState::Running;
        self.metrics.set_latency(Latency::Resume, since.elapsed());
        self.status.send(&Event::Resumed { monotonic_ns: monotonic_ns() });
        Ok(())
    }

    pub(super) fn balloon_stats(&mut self) -> Result<BalloonStats, ApiError> {
        self.machine()?.balloon_stats()
    }

    pub(super) fn hinting_status(&mut self) -> Result<BalloonHintingStatus, ApiError> {
        self.machine()?.hinting_status()
    }

    pub(super) fn memory_hotplug(&mut self) -> Result<MemoryHotplugStatus, ApiError> {
        self.machine()?.memory_hotplug()
    }
}
