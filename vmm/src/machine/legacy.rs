//! The few devices that every x86_64 machine here has, and how they end it.

use std::sync::Arc;

use arch_x86_64::layout::{self, gsi, ports};
use devices::console::ConsoleOutput;
use devices::legacy::{AcpiPm, I8042, MachineEvents, Pvpanic, Rtc, SerialPort, VmGenId};
use devices::{Bus, InterruptLine, LogLimit};

use super::state::LegacyState;
use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::stop::{StopReason, StopSignal};

/// Turns what the guest asks of its machine into the reason why it ends.
struct GuestRequests(Arc<StopSignal>);

impl MachineEvents for GuestRequests {
    fn power_off(&self) {
        self.0.request(StopReason::PowerOff);
    }

    fn reset(&self) {
        self.0.request(StopReason::Reset);
    }

    fn panicked(&self, crash_loaded: bool) {
        static LOG: LogLimit = LogLimit::new();
        if crash_loaded {
            LOG.warn(format_args!("the guest's kernel panicked and starts its crash kernel"));
        } else {
            self.0.request(StopReason::GuestPanic);
        }
    }
}

/// The fixed-port devices that keep anything.
pub(super) struct Legacy {
    pub(super) serial: Arc<SerialPort>,
    pub(super) rtc: Arc<Rtc>,
}

impl Legacy {
    /// Saves them. vCPUs are paused.
    pub(super) fn save(&self) -> LegacyState {
        LegacyState { serial: self.serial.save(), rtc: self.rtc.save() }
    }

    /// Gives them their saved state.
    ///
    /// # Errors
    /// [`VmmError::Snapshot`] when the state is damaged.
    pub(super) fn restore(&self, state: LegacyState) -> Result<(), VmmError> {
        let failed = |what| move |source| VmmError::snapshot(format!("restore {what}"), source);
        self.serial.restore(state.serial).map_err(failed("the serial port"))?;
        self.rtc.restore(&state.rtc).map_err(failed("the real-time clock"))
    }

    /// Raises the interrupts again that may have been lost.
    pub(super) fn revive(&self) {
        self.serial.revive();
    }
}

/// Puts the fixed-port devices on the port bus.
///
/// # Errors
/// When two of them claim the same port: a mistake in the layout.
pub(super) fn attach(pio: &Bus, stop: &Arc<StopSignal>) -> Result<Arc<Rtc>, VmmError> {
    let events: Arc<dyn MachineEvents> = Arc::new(GuestRequests(Arc::clone(stop)));
    let i8042 = Arc::new(I8042::new(Arc::clone(&events)));
    pio.insert(ports::I8042_COMMAND.base.into(), I8042::SIZE, i8042)?;
    let rtc = Arc::new(Rtc::new());
    pio.insert(ports::RTC.base.into(), Rtc::SIZE, Arc::clone(&rtc) as _)?;
    let acpi = Arc::new(AcpiPm::new(Arc::clone(&events)));
    pio.insert(ports::ACPI.base.into(), AcpiPm::SIZE, acpi)?;
    pio.insert(ports::PVPANIC.base.into(), Pvpanic::SIZE, Arc::new(Pvpanic::new(events)))?;
    Ok(rtc)
}

/// Creates the first serial port, which transmits to `output`, and puts it on the port bus.
///
/// # Errors
/// When there is no eventfd, or KVM refuses the interrupt.
pub(super) fn attach_serial(
    pio: &Bus,
    router: &InterruptRouter,
    output: Arc<ConsoleOutput>,
) -> Result<Arc<SerialPort>, VmmError> {
    let line: Arc<dyn InterruptLine> = Arc::new(router.line(gsi::COM1)?);
    let serial = SerialPort::new(line, output)
        .map_err(|source| VmmError::os("make the serial port", source))?;
    let serial = Arc::new(serial);
    pio.insert(ports::COM1.base.into(), SerialPort::SIZE, Arc::clone(&serial) as _)?;
    Ok(serial)
}

/// Creates the VM generation ID, which has no value yet.
///
/// # Errors
/// When there is no eventfd, or KVM refuses the interrupt.
pub(super) fn generation_id(router: &InterruptRouter) -> Result<VmGenId, VmmError> {
    let line: Arc<dyn InterruptLine> = Arc::new(router.line(gsi::VM_GENERATION_ID)?);
    Ok(VmGenId::new(layout::VM_GENERATION_ID.start(), line))
}
