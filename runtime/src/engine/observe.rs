//! What the agent of a running container tells: processes, use.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_proto::{Client, ProcessInfo};

use super::Engine;
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::error::RuntimeError;
use crate::options::{Processes, Stats};
use crate::record::{ContainerRecord, State, Status};
use crate::usage::ProcessUsage;

impl Engine {
    /// The processes of a container: the columns of `ps -ef`.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn top(&self, reference: &str) -> Result<Processes, RuntimeError> {
        let (_, client) = self.agent(reference)?;
        let processes = client.processes().map_err(agent_error)?;
        let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
        let now = SystemTime::now();
        Ok(Processes {
            titles: titles.map(str::to_owned).to_vec(),
            rows: processes.iter().map(|process| process_row(process, now)).collect(),
        })
    }

    /// What a container uses at the moment; zeros if it doesn't run.
    ///
    /// # Errors
    /// The agent can't be reached.
    pub fn stats(&self, reference: &str) -> Result<Stats, RuntimeError> {
        let (record, state) = self.find(reference)?;
        let mut stats = Stats {
            id: record.id.clone(),
            name: record.name.clone(),
            read: Some(SystemTime::now()),
            ..Stats::default()
        };
        if let Some(vmm) = state.vmm.as_ref().filter(|vmm| vmm.open().is_some()) {
            let usage = ProcessUsage::of(vmm.pid);
            stats.host_cpu_ns = usage.cpu_ns;
            stats.host_memory_bytes = usage.memory_bytes;
        }
        // A VM that stands still doesn't answer.
        if state.status == Status::Running {
            let client = self.connect(&record.id)?;
            add_guest(&mut stats, &client.stats().map_err(agent_error)?);
        }
        Ok(stats)
    }

    /// Connects to the agent of a running container.
    pub(crate) fn agent(&self, reference: &str) -> Result<(ContainerRecord, Client), RuntimeError> {
        let (record, state) = self.find(reference)?;
        must_run(&state)?;
        let client = self.connect(&record.id)?;
        Ok((record, client))
    }

    fn connect(&self, id: &str) -> Result<Client, RuntimeError> {
        let socket = self.store.paths(id).vsock();
        Client::connect(&socket, AGENT_TIMEOUT).map_err(agent_error)
    }
}

/// Refuses a container that doesn't run or stands still.
pub(crate) fn must_run(state: &State) -> Result<(), RuntimeError> {
    let name = &state.summary.name;
    match state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(RuntimeError::conflict(format!(
            "container {name} is paused, unpause the container before exec"
        ))),
        Status::Restarting => Err(RuntimeError::conflict(format!(
            "container {name} is restarting, wait until the container is running"
        ))),
        _ => Err(RuntimeError::conflict(format!("container {name} is not running"))),
    }
}

fn add_guest(stats: &mut Stats, guest: &agent_proto::Stats) {
    stats.cpu_total_ns = guest.cpu.total_us.saturating_mul(1000);
    stats.cpus = guest.cpu.online;
    // Docker's figure leaves out cache that can be given back at once.
    let memory = &guest.memory;
    stats.memory_bytes = memory.current_bytes.saturating_sub(memory.inactive_file_bytes);
    stats.memory_limit_bytes = memory.limit_bytes;
    for network in &guest.networks {
        stats.net_rx_bytes = stats.net_rx_bytes.saturating_add(network.received_bytes);
        stats.net_tx_bytes = stats.net_tx_bytes.saturating_add(network.sent_bytes);
    }
    stats.block_read_bytes = guest.block.read_bytes;
    stats.block_write_bytes = guest.block.written_bytes;
    stats.pids = guest.pids.current;
}

/// The columns of `ps -ef`, times in UTC.
fn process_row(process: &ProcessInfo, now: SystemTime) -> Vec<String> {
    let seconds = process.cpu_time_ms / 1000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    vec![
        process.user.clone(),
        process.pid.to_string(),
        process.parent.to_string(),
        process.cpu_percent.to_string(),
        start_time(process.started_at_s, now),
        process.terminal.clone(),
        format!("{hours:02}:{minutes:02}:{:02}", seconds % 60),
        process.command.clone(),
    ]
}

/// `15:04` within a day, else the date. What can't be a time is `?`.
fn start_time(seconds: u64, now: SystemTime) -> String {
    // Beyond the year 9999 it can't be written.
    const END: u64 = 253_402_300_800;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds < END);
    let Some(time) = time else { return "?".to_owned() };
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let age = now.duration_since(time).unwrap_or_default();
    let part = if age < Duration::from_hours(24) { text.get(11..16) } else { text.get(..10) };
    part.unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_look_like_those_of_ps() {
        let process = ProcessInfo {
            user: "root".to_owned(),
            pid: 1,
            cpu_time_ms: 3_723_400,
            started_at_s: 1_700_000_000,
            terminal: "?".to_owned(),
            command: "nginx: master".to_owned(),
            ..ProcessInfo::default()
        };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let row = process_row(&process, at(1_700_000_060));
        assert_eq!(row, ["root", "1", "0", "0", "22:13", "?", "01:02:03", "nginx: master"]);
        assert_eq!(start_time(1_700_000_000, at(1_700_200_000)), "2023-11-14");
        for lie in [u64::MAX, 253_402_300_800, 1 << 62] {
            assert_eq!(start_time(lie, at(0)), "?");
        }
    }

    #[test]
    fn lies_of_an_agent_add_up_to_no_panic() {
        let mut guest = agent_proto::Stats::default();
        guest.cpu.total_us = u64::MAX;
        guest.memory.inactive_file_bytes = 1;
        guest.networks =
            vec![agent_proto::NetworkStats { received_bytes: u64::MAX, ..Default::default() }; 3];
        let mut stats = Stats::default();
        add_guest(&mut stats, &guest);
        assert_eq!((stats.cpu_total_ns, stats.memory_bytes), (u64::MAX, 0));
        assert_eq!(stats.net_rx_bytes, u64::MAX);
    }
}
