//! What an instance sees.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Text, bounded};

/// What an instance sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The kernel's release: `6.12.117`.
    pub kernel_release: Text,
    /// Which build of it, and when.
    pub kernel_version: Text,
    /// `x86_64`, `aarch64`.
    pub architecture: Text,
    /// What the kernel chose at random when it booted.
    pub boot_id: Option<Text>,
    /// The host name.
    pub hostname: Text,
    /// The distribution's name for people, in images that say it.
    pub os: Option<Text>,
    /// How many processes are in `/proc`, this one too.
    pub processes: u32,
    /// The names of the first 8 of them, by their numbers.
    #[serde(deserialize_with = "bounded::list")]
    pub process_names: Vec<Text>,
    /// How many modules the kernel has loaded, if it tells.
    pub modules: Option<u32>,
    /// The kernel's log.
    pub kernel_log: KernelLog,
    /// The namespaces that it's in: `uts` is `uts:[4026531838]`.
    #[serde(deserialize_with = "bounded::map")]
    pub namespaces: BTreeMap<Text, Text>,
    /// Its control groups, as `/proc/self/cgroup` has them.
    pub cgroup: Option<Text>,
    /// Its control group's limits, if it sees them.
    pub limits: CgroupLimits,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Its system call filter's mode: 0 none, 1 strict, 2 a filter.
    pub seccomp: Option<u32>,
    /// Whether it can't gain rights by running programs.
    pub no_new_privileges: Option<bool>,
    /// Which user it is.
    pub user: u32,
    /// How its users are numbered outside its user namespace.
    pub user_map: Option<Text>,
    /// How many processors are online.
    pub cpus_online: u32,
    /// The kernel's memory in bytes.
    pub memory_total_bytes: u64,
    /// Since when the kernel has been up, in seconds.
    #[serde(deserialize_with = "bounded::figure")]
    pub uptime_seconds: f64,
    /// What's mounted at `/`.
    pub root: Option<Mount>,
    /// All that's mounted, in the order of mounting.
    #[serde(deserialize_with = "bounded::list")]
    pub mounts: Vec<Mount>,
    /// The block devices that it sees, if it sees whether there are some.
    #[serde(deserialize_with = "bounded::optional_list")]
    pub block_devices: Option<Vec<BlockDevice>>,
    /// The network interfaces that it has.
    #[serde(deserialize_with = "bounded::list")]
    pub interfaces: Vec<Text>,
}

/// What can be seen of the kernel's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLog {
    /// Whether it can be read.
    pub readable: bool,
    /// How many records it has, if they could be counted.
    pub records: Option<u32>,
    /// The first record.
    pub first: Option<Text>,
    /// Why it can't be read.
    pub error: Option<Text>,
}

/// A control group's limits, as its files have them: `max`, `268435456`, `100000 100000`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// `memory.max`, in bytes.
    pub memory_max: Option<Text>,
    /// `cpu.max`: microseconds, in a period of so many.
    pub cpu_max: Option<Text>,
    /// `pids.max`.
    pub pids_max: Option<Text>,
}

/// Capability sets, in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What programs may inherit.
    pub inheritable: Text,
    /// What it may make effective.
    pub permitted: Text,
    /// What it has.
    pub effective: Text,
    /// What it can ever have.
    pub bounding: Text,
    /// What ordinary programs inherit.
    pub ambient: Text,
    /// The names of what it has: `CHOWN`.
    #[serde(deserialize_with = "bounded::list")]
    pub effective_names: Vec<Text>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub target: Text,
    /// Its type: `erofs`, `overlay`.
    #[serde(rename = "type")]
    pub file_system: Text,
    /// Of what: `/dev/vda`.
    pub source: Text,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Its name: `vda`.
    pub name: Text,
    /// Its size in bytes.
    pub bytes: u64,
}
