//! What the host is: every result says where it was measured.

use std::env;
use std::fs;
use std::path::Path;

use crate::model::Host;
use crate::report::quantity::counted;

/// Set to `instructions` by whoever runs us on a machine whose clock counts those.
const CLOCK: &str = "VMCTL_HOST_CLOCK";

/// The processor of an emulated machine calls itself so.
const EMULATED: &str = "QEMU";

/// The kernel's modules that run virtual machines, the most telling first.
const KVM_MODULES: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm"];

impl Host {
    /// This one, now.
    pub fn now() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu_model = field(&cpuinfo, "model name").unwrap_or("unknown").to_owned();
        let uname = rustix::system::uname();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
            memory_bytes: memory(&read("/proc/meminfo")).unwrap_or(0),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            cpu_governor: Some(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
                .map(|governor| governor.trim().to_owned())
                .filter(|governor| !governor.is_empty()),
            kvm_module: KVM_MODULES
                .into_iter()
                .find(|module| Path::new("/sys/module").join(module).exists())
                .map(str::to_owned),
            emulated: cpu_model.contains(EMULATED),
            counts_instructions: env::var(CLOCK).is_ok_and(|clock| clock == "instructions"),
            cpu_model,
            vmctl_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What a reader should know of figures that are measured here.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.emulated && self.counts_instructions {
            notes.push(
                "This host is an emulated machine whose clock counts instructions: ratios of CPU \
                 times mean what they say, other times little."
                    .to_owned(),
            );
        } else if self.emulated {
            notes.push(
                "This host is an emulated machine: times show that it works, and mean little. \
                 Compare them on real hardware, or by instruction count (cargo xtask lab --icount)."
                    .to_owned(),
            );
        }
        if self.load > f64::from(self.cpus) / 2.0 {
            notes.push(format!(
                "The host was busy when it began: a load of {:.1} on {}.",
                self.load,
                counted(self.cpus, "CPU")
            ));
        }
        if let Some(governor) = self.cpu_governor.as_deref()
            && governor != "performance"
        {
            notes.push(format!(
                "The CPU's frequency is governed by {governor:?}: short measurements may see it low."
            ));
        }
        notes
    }
}

fn read(path: &str) -> String {
    // What a host doesn't have isn't said.
    fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory(text: &str) -> Option<u64> {
    let kib = field(text, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_described() {
        let host = Host::now();
        assert!(host.cpus > 0 && host.memory_bytes > 1 << 20 && !host.kernel.is_empty());
    }

    #[test]
    fn times_of_an_emulated_machine_come_with_a_warning() {
        let host = Host {
            emulated: true,
            counts_instructions: false,
            load: 0.0,
            cpu_governor: Some("performance".to_owned()),
            ..Host::now()
        };
        assert!(host.notes()[0].contains("mean little"), "{:?}", host.notes());
        let real = Host { emulated: false, ..host };
        assert!(real.notes().is_empty());
        let busy = Host { load: f64::from(real.cpus), cpu_governor: None, ..real };
        assert!(busy.notes()[0].contains("busy"));
    }
}
