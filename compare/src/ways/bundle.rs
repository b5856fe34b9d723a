//! A container for an OCI runtime: Docker's defaults, of the same record that a VM is made from.
//! (OCI runtime-spec 1.0.2, `config.md` and `config-linux.md`.)

use std::fs::File;
use std::io::Read;
use std::path::Path;

use runtime::Resolved;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde_json::{Value, json};

use super::seccomp::Profile;
use super::{PROBE_PATH, WayError};

/// Docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities (`linux/capability.h`).
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What Docker hides.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

/// What Docker makes read-only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The most of an image's `/etc/passwd` or `/etc/group` that's read, in bytes.
const USERS_BYTES: u64 = 1 << 20;

/// Where programs are looked for unless the image says.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most processes: the host's kernel is everybody's.
pub(crate) const PIDS_LIMIT: u32 = 512;

/// What a bundle is made of.
pub(crate) struct Bundle<'a> {
    pub(crate) root: &'a Path,
    pub(crate) resolved: &'a Resolved,
    pub(crate) hostname: &'a str,
    /// Below the runtime's root of cgroups; the runtime's own choice unless said.
    pub(crate) cgroup: Option<String>,
    /// The network namespace; one with nothing but `lo` unless said.
    pub(crate) network: Option<&'a Path>,
    /// The program of our own.
    pub(crate) probe: Option<&'a Path>,
    /// The system call filter.
    pub(crate) profile: Option<&'a Profile>,
    /// Whether it has all capabilities, nothing hidden, and no filter.
    pub(crate) privileged: bool,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
}

impl Bundle<'_> {
    /// The specification.
    ///
    /// # Errors
    /// The image has no such user.
    pub(crate) fn config(&self) -> Result<Value, WayError> {
        let (uid, gid) = user(self.root, &self.resolved.user)?;
        let mut network = json!({"type": "network"});
        if let Some(path) = self.network {
            network["path"] = json!(path);
        }
        let mut linux = json!({
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}, network,
            ],
            "resources": {
                "devices": [
                    {"allow": false, "access": "rwm"},
                    {"allow": true, "type": "c", "access": "m"},
                    {"allow": true, "type": "b", "access": "m"},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 5, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 136, "access": "rwm"},
                ],
                "memory": {"limit": u64::from(self.memory_mib) << 20},
                "cpu": {"quota": u64::from(self.cpus) * 100_000, "period": 100_000},
                "pids": {"limit": PIDS_LIMIT},
            },
        });
        let capabilities: &[_] = if self.privileged { &ALL_CAPABILITIES } else { &CAPABILITIES };
        if !self.privileged {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
            if let Some(profile) = self.profile {
                linux["seccomp"] = profile.for_capabilities(capabilities);
            }
        }
        if let Some(cgroup) = &self.cgroup {
            linux["cgroupsPath"] = json!(cgroup);
        }
        let words: Vec<_> = self.resolved.entrypoint.iter().chain(&self.resolved.command).collect();
        Ok(json!({
            "ociVersion": "1.0.2",
            "hostname": self.hostname,
            "root": {"path": self.root, "readonly": false},
            "process": {
                "terminal": false,
                "user": {"uid": uid, "gid": gid},
                "args": words,
                "env": self.environment(),
                "cwd": self.resolved.working_dir,
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
                "noNewPrivileges": false,
            },
            "mounts": self.mounts(),
            "linux": linux,
        }))
    }

    fn environment(&self) -> Vec<String> {
        let mut env = self.resolved.env.clone();
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        env.push(format!("HOSTNAME={}", self.hostname));
        env
    }

    fn mounts(&self) -> Vec<Value> {
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc",
                "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "ro"]}),
        ];
        if let Some(probe) = self.probe {
            mounts.push(json!({"destination": PROBE_PATH, "type": "bind", "source": probe,
                "options": ["bind", "ro", "nosuid", "nodev"]}));
        }
        mounts
    }
}

/// Finds the numbers of `USER[:GROUP]`, names of the image's or numbers.
fn user(root: &Path, text: &str) -> Result<(u32, u32), WayError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let unknown =
        |what: &str, name: &str| WayError::Unavailable(format!("the image has no {what} {name:?}"));
    let (uid, own_group) = match (user, user.parse()) {
        ("", _) => (0, 0),
        (_, Ok(uid)) => {
            let fields = entry(root, "etc/passwd", |fields| fields.get(2) == Some(&user));
            (uid, fields.and_then(|fields| fields.get(3)?.parse().ok()).unwrap_or(0))
        }
        (name, Err(_)) => {
            let fields = entry(root, "etc/passwd", |fields| fields.first() == Some(&name));
            fields
                .and_then(|fields| {
                    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
                })
                .ok_or_else(|| unknown("user", name))?
        }
    };
    let gid = match group {
        None | Some("") => own_group,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => entry(root, "etc/group", |fields| fields.first() == Some(&group))
                .and_then(|fields| fields.get(2)?.parse().ok())
                .ok_or_else(|| unknown("group", group))?,
        },
    };
    Ok((uid, gid))
}

/// The fields of the line of a file of the image's that `is_meant` says. Links in it don't lead out
/// of the image.
fn entry(root: &Path, path: &str, is_meant: impl Fn(&[&str]) -> bool) -> Option<Vec<String>> {
    let dir = File::open(root).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(&dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let mut text = Vec::new();
    File::from(file).take(USERS_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines
        .find(|fields| is_meant(fields))
        .map(|fields| fields.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nnginx:x:101:102::/:/bin/false\nbroken\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:33:nginx\n").unwrap();
        dir
    }

    #[test]
    fn users_are_names_of_the_images_or_numbers() {
        let image = image();
        let of = |text: &str| user(image.path(), text).ok();
        assert_eq!(of(""), Some((0, 0)));
        assert_eq!(of("nginx"), Some((101, 102)));
        assert_eq!(of("101"), Some((101, 102)));
        assert_eq!(of("7:www"), Some((7, 33)));
        assert_eq!(of("nginx:5"), Some((101, 5)));
        assert_eq!(of("7"), Some((7, 0)));
        for wrong in ["nobody-here", "0:nobody-here", "broken", "-1", "99999999999"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn links_of_the_image_stay_in_the_image() {
        let image = image();
        let path = image.path().join("etc/passwd");
        fs::remove_file(&path).unwrap();
        // The host's has a user `daemon`; the image doesn't.
        std::os::unix::fs::symlink("/etc/passwd-elsewhere", &path).unwrap();
        assert!(user(image.path(), "daemon").is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../../../../../../../../etc/group", &path).unwrap();
        assert!(user(image.path(), "daemon").is_err());
    }

    #[test]
    fn containers_get_limits_namespaces_and_the_images_command() {
        let image = image();
        let resolved = Resolved {
            entrypoint: vec!["/bin/echo".to_owned()],
            command: vec!["hello".to_owned()],
            working_dir: "/".to_owned(),
            ..Resolved::default()
        };
        let profile = r#"{ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [] }"#;
        let profile = serde_json::from_str(profile).unwrap();
        let bundle = Bundle {
            root: image.path(),
            resolved: &resolved,
            hostname: "one",
            cgroup: Some("/a/b".to_owned()),
            network: Some(Path::new("/run/netns/x")),
            probe: None,
            profile: Some(&profile),
            privileged: false,
            cpus: 2,
            memory_mib: 64,
        };
        let config = bundle.config().unwrap();
        assert_eq!(config["process"]["args"], json!(["/bin/echo", "hello"]));
        assert_eq!(config["linux"]["resources"]["memory"]["limit"], 64 << 20);
        assert_eq!(config["linux"]["resources"]["cpu"]["quota"], 200_000);
        assert_eq!(config["linux"]["cgroupsPath"], "/a/b");
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "network", "path": "/run/netns/x"})));
        assert!(!config.to_string().contains(PROBE_PATH));
        assert!(config["linux"]["readonlyPaths"].is_array());
        assert_eq!(config["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        let all = Bundle { privileged: true, ..bundle }.config().unwrap();
        assert!(all["linux"]["readonlyPaths"].is_null() && all["linux"]["seccomp"].is_null());
        let effective = all["process"]["capabilities"]["effective"].as_array().unwrap();
        assert!(effective.contains(&json!("CAP_SYS_TIME")));
    }
}
