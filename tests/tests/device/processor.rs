//! What the guest's processors announce, and the register by which its init says that it runs.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use api::config::{
    Bitmap, CpuTemplate, CpuidLeafModifier, CpuidModifier, CpuidRegister, MsrModifier, VmSpec,
};
use api::event::Event;
use api::http::StreamItem;
use integration_tests::api_vm::{ApiVm, boot_of, lean};
use integration_tests::artifacts;

use crate::support::{ApiGuest, Place};

/// The microcode's revision on AMD's processors, and on Intel's in the upper half.
const MICROCODE: u32 = 0x8b;

const REVISION: u64 = 0x0012_3456;

/// Clears one bit of CPUID.
fn without(leaf: u32, flags: u32, register: CpuidRegister, bit: u32) -> CpuidLeafModifier {
    let bitmap = Bitmap { mask: 1 << bit, value: 0 };
    CpuidLeafModifier {
        leaf,
        subleaf: 0,
        flags,
        modifiers: vec![CpuidModifier { register, bitmap }],
    }
}

#[test]
fn template_hides_features_and_sets_a_register_on_every_vcpu() -> Result<()> {
    let place = Place::new("template")?;
    let template = CpuTemplate {
        cpuid_modifiers: vec![
            without(1, 0, CpuidRegister::Ecx, 30),
            without(7, 1, CpuidRegister::Ebx, 8),
        ],
        msr_modifiers: vec![MsrModifier {
            addr: MICROCODE,
            bitmap: Bitmap { mask: u64::MAX, value: REVISION << 32 | REVISION },
        }],
        ..CpuTemplate::default()
    };
    let mut guest = place.boot(VmSpec { cpu_config: Some(template), ..lean(2, 128) })?;
    let host = std::fs::read_to_string("/proc/cpuinfo")?;
    for flag in ["rdrand", "bmi2"] {
        ensure!(host.contains(&format!(" {flag} ")), "the host itself has no {flag}");
        let lines = guest.try_run(&format!("grep -cw {flag} /proc/cpuinfo"))?.text;
        ensure!(lines == "0", "{lines} processors have {flag}");
    }
    // Their neighbours are still there.
    ensure!(guest.run("grep -w bmi1 /proc/cpuinfo | grep -cw f16c")? == "2");
    let microcode = guest.run("grep -c 'microcode.*: 0x123456$' /proc/cpuinfo")?;
    ensure!(microcode == "2", "{}", guest.run("grep microcode /proc/cpuinfo")?);

    guest.power_off()
}

/// The lean kernel has no `/dev/mem`; Debian's has.
#[test]
fn boot_timer_takes_the_first_right_write_for_an_event() -> Result<()> {
    let place = Place::new("boot_timer")?;
    let (_, kernel, initrd) = artifacts::stock_kernels().pop().context("no stock kernel")?;
    let mut command = Command::new(artifacts::vmm());
    command.arg("--boot-timer");
    let vmm = ApiVm::spawn_by(command, place.name(), place.path())?;
    let mut guest = vmm.boot(boot_of(kernel, initrd, 1, 256))?;
    guest.run("devmem 0xd0000000 8 7")?;
    ensure!(count_boots(&guest)? == 0);
    guest.run("devmem 0xd0000000 8 123 && devmem 0xd0000000 8 123")?;
    ensure!(count_boots(&guest)? == 1, "the event isn't there once");
    let timeline = guest.vm.api.timeline()?.events;
    ensure!(timeline.iter().any(|event| matches!(event, Event::GuestBooted { .. })));
    guest.power_off()
}

fn count_boots(guest: &ApiGuest) -> Result<usize> {
    let events: Vec<_> = guest.vm.api.events(false)?.collect::<Result<_, _>>()?;
    let is_boot = |item: &&StreamItem| matches!(item, StreamItem::Event(Event::GuestBooted { .. }));
    Ok(events.iter().filter(is_boot).count())
}
