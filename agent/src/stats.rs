//! What the container uses.

use std::fs;
use std::path::Path;

use agent_proto::limits::MAX_DEVICES;
use agent_proto::{BlockStats, CpuStats, MemoryStats, NetworkStats, PidsStats, Stats};

use crate::cgroup::value;
use crate::listing::uptime;
use crate::paths::CGROUP;

/// Collects everything. What this kernel doesn't count is 0.
pub(crate) fn collect() -> Stats {
    let cgroup = Path::new(CGROUP);
    let read = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    Stats {
        cpu: cpu(&read("cpu.stat")),
        memory: memory(&read),
        pids: PidsStats {
            current: number(&read("pids.current")).unwrap_or(0),
            limit: number(&read("pids.max")),
        },
        networks: networks(
            &fs::read_to_string("/proc/self/net/dev").unwrap_or_default(),
            is_device,
        ),
        block: block(&read("io.stat")),
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn cpu(stat: &str) -> CpuStats {
    let of = |key| value(stat, key).unwrap_or(0);
    let online = std::thread::available_parallelism().map_or(1, usize::from);
    CpuStats {
        total_us: of("usage_usec"),
        user_us: of("user_usec"),
        system_us: of("system_usec"),
        throttled_periods: of("nr_throttled"),
        online: u32::try_from(online).unwrap_or(u32::MAX),
        uptime_us: u64::try_from(uptime().as_micros()).unwrap_or(u64::MAX),
    }
}

fn memory(read: &impl Fn(&str) -> String) -> MemoryStats {
    let guest = || {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = line.and_then(|line| number(line.trim().trim_end_matches(" kB")));
        kib.unwrap_or(0).saturating_mul(1024)
    };
    MemoryStats {
        current_bytes: number(&read("memory.current")).unwrap_or(0),
        inactive_file_bytes: value(&read("memory.stat"), "inactive_file").unwrap_or(0),
        limit_bytes: number(&read("memory.max")).unwrap_or_else(guest),
        kills: value(&read("memory.events"), "oom_kill").unwrap_or(0),
    }
}

/// Tells whether an interface is a device, rather than the kernel's own making as the loopback is.
fn is_device(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).join("device").exists()
}

/// Reads `/proc/net/dev`: sixteen counters per interface, eight each way.
fn networks(text: &str, is_device: impl Fn(&str) -> bool) -> Vec<NetworkStats> {
    let parse = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
        Some(NetworkStats {
            name: name.trim().to_owned(),
            received_bytes: *counters.first()?,
            received_packets: *counters.get(1)?,
            sent_bytes: *counters.get(8)?,
            sent_packets: *counters.get(9)?,
        })
    };
    let all = text.lines().filter_map(parse);
    all.filter(|interface| is_device(&interface.name)).take(MAX_DEVICES).collect()
}

/// Reads `io.stat`: a line of `KEY=VALUE` per drive.
fn block(text: &str) -> BlockStats {
    let sum = |key: &str| {
        let values = text.split_whitespace().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name == key).then(|| value.parse::<u64>().ok()).flatten()
        });
        values.fold(0_u64, u64::saturating_add)
    };
    BlockStats { read_bytes: sum("rbytes"), written_bytes: sum("wbytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_counted_without_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\nbroken: 1\n";
        let networks = networks(text, |name| name != "lo");
        assert_eq!(networks.len(), 1);
        assert_eq!((networks[0].received_bytes, networks[0].sent_packets), (100, 4));
    }

    #[test]
    fn drives_are_added_up() {
        let text =
            "254:0 rbytes=10 wbytes=1 rios=9 wios=9\n254:16 rbytes=5 wbytes=18446744073709551615\n";
        assert_eq!(block(text), BlockStats { read_bytes: 15, written_bytes: u64::MAX });
        assert_eq!(block("x=y rbytes rbytes="), BlockStats::default());
    }

    #[test]
    fn cpu_time_is_read() {
        let cpu = cpu("usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 2\n");
        assert_eq!(
            (cpu.total_us, cpu.user_us, cpu.system_us, cpu.throttled_periods),
            (30, 20, 10, 2)
        );
    }
}
