//! `vmctl info`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Args;
use runtime::{Engine, Info};
use serde_json::{Value, json};

use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::{self, human, one_line};
use crate::output;

/// Display system-wide information.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct InfoArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn run(engine: &Engine, args: &InfoArgs) -> Result<u8, CliError> {
    let value = value(&engine.info().map_err(ContainerError::from)?, &HostInfo::look());
    let text = match args.format.as_deref() {
        None => in_words(&value),
        Some("json") => format!("{value}\n"),
        Some(template) => format::render_each(&[value], template).map_err(ContainerError::from)?,
    };
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

/// What's known of this host.
#[derive(Debug, Default)]
struct HostInfo {
    name: String,
    kernel: String,
    system: String,
    machine: String,
    cpus: usize,
    memory_bytes: u64,
}

impl HostInfo {
    fn look() -> Self {
        let system = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Self {
            name: text(system.nodename()),
            kernel: text(system.release()),
            machine: text(system.machine()),
            system: distribution(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_bytes: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        }
    }
}

/// `PRETTY_NAME` of `os-release(5)`.
fn distribution(file: &str) -> String {
    let name = file.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches(['"', '\'']).to_owned()
}

/// `MemTotal` of `proc_meminfo(5)`, in bytes.
fn memory(file: &str) -> u64 {
    let line = file.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// This architecture by Go's name, as images have it.
pub(super) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// By Docker's names, and what only virtual machines need by further ones.
fn value(info: &Info, host: &HostInfo) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map(Path::to_string_lossy).map(std::borrow::Cow::into_owned)
    };
    json!({
        "Containers": info.running + info.paused + info.stopped,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Volumes": info.volumes,
        "Templates": info.templates,
        "Driver": "erofs",
        "ServerVersion": version,
        "DefaultRuntime": "kvm",
        "KernelVersion": host.kernel,
        "OperatingSystem": host.system,
        "OSType": "linux",
        "Architecture": host.machine,
        "NCPU": host.cpus,
        "MemTotal": host.memory_bytes,
        "Name": host.name,
        "DockerRootDir": info.data_root.to_string_lossy(),
        "RuntimeDir": info.runtime_root.to_string_lossy(),
        "GuestKernel": path(&info.kernel),
        "GuestAgent": path(&info.agent),
        "VMM": path(&info.vmm),
        "Rootless": info.rootless,
        "ClientInfo": {"Version": version},
    })
}

fn in_words(value: &Value) -> String {
    let shown = |name: &str| match &value[name] {
        Value::String(text) => one_line(text),
        Value::Null => "not found".to_owned(),
        other => other.to_string(),
    };
    let memory = human::memory(value["MemTotal"].as_u64().unwrap_or(0));
    let mut text = format!("Client: vmctl\n Version:    {}\n\nServer:\n", shown("ServerVersion"));
    for (title, shown) in [
        ("Containers", shown("Containers")),
        (" Running", shown("ContainersRunning")),
        (" Paused", shown("ContainersPaused")),
        (" Stopped", shown("ContainersStopped")),
        ("Images", shown("Images")),
        ("Volumes", shown("Volumes")),
        ("Warm Templates", shown("Templates")),
        ("Server Version", shown("ServerVersion")),
        ("Storage Driver", shown("Driver")),
        ("Runtime", "a virtual machine (KVM) per container".to_owned()),
        ("VMM", shown("VMM")),
        ("Guest Kernel", shown("GuestKernel")),
        ("Guest Agent", shown("GuestAgent")),
        ("Kernel Version", shown("KernelVersion")),
        ("Operating System", shown("OperatingSystem")),
        ("OSType", shown("OSType")),
        ("Architecture", shown("Architecture")),
        ("CPUs", shown("NCPU")),
        ("Total Memory", memory),
        ("Name", shown("Name")),
        ("Rootless", shown("Rootless")),
        ("Data Root Dir", shown("DockerRootDir")),
        ("Runtime Dir", shown("RuntimeDir")),
    ] {
        // Writing to a string can't fail.
        let _ = writeln!(text, " {title}: {shown}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_has_dockers_names_and_words() {
        let info = Info { running: 1, stopped: 2, images: 4, ..Info::default() };
        let host =
            HostInfo { memory_bytes: 1 << 30, name: "h\n".to_owned(), ..HostInfo::default() };
        let value = value(&info, &host);
        assert_eq!(value["Containers"], 3);
        let text = in_words(&value);
        for line in [
            "\n Containers: 3\n  Running: 1\n  Paused: 0\n  Stopped: 2\n Images: 4\n",
            "\n Guest Kernel: not found\n",
            "\n Total Memory: 1GiB\n Name: h?\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let rendered = format::render_each(&[value], "{{.ContainersRunning}} {{.NCPU}}").unwrap();
        assert_eq!(rendered, "1 0\n");
    }

    #[test]
    fn host_is_read_from_its_files() {
        assert_eq!(memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(memory("MemTotal: lots\n"), 0);
        assert_eq!(memory(""), 0);
        let file = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n";
        assert_eq!(distribution(file), "Debian GNU/Linux 13 (trixie)");
        assert_eq!(distribution(""), "Linux");
    }
}
