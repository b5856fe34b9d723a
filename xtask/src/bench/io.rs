//! The work of disks and network cards: fio and iperf3 in a Debian guest, CPU time per operation.
//!
//! What is counted is the whole process: the guest's time, the VMM's and the host kernel's in its
//! name. Each load runs three times in a guest: once to warm up, once short, once long. The
//! difference of the last two, divided by the operations that the long one has more, is what an
//! operation costs, without the start and the end of the program that asks for them.

mod machine;
mod shell;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use self::machine::{HOST_ADDRESS, Stage};
use self::shell::Shell;
use super::What;
use crate::process;
use metering::{Cgroup, CpuTime};

/// What a guest is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Load {
    /// fio: 4 KiB reads anywhere, 16 at a time.
    RandomRead,
    /// fio: 4 KiB writes anywhere, 16 at a time.
    RandomWrite,
    /// fio: 1 MiB reads one after the other, 16 at a time.
    SequentialRead,
    /// iperf3: one TCP stream; an operation is 1 MiB.
    GuestToHost,
    /// The same, the other way.
    HostToGuest,
}

impl Load {
    /// The loads of a disk.
    const BLOCK: [Self; 3] = [Self::RandomRead, Self::RandomWrite, Self::SequentialRead];
    /// The loads of a network card.
    const NET: [Self; 2] = [Self::GuestToHost, Self::HostToGuest];
    /// All loads, in the order of the table.
    pub(super) const ALL: [Self; 5] = [
        Self::RandomRead,
        Self::RandomWrite,
        Self::SequentialRead,
        Self::GuestToHost,
        Self::HostToGuest,
    ];

    /// Returns the name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::RandomRead => "4 KiB random read",
            Self::RandomWrite => "4 KiB random write",
            Self::SequentialRead => "1 MiB sequential read",
            Self::GuestToHost => "1 MiB guest to host",
            Self::HostToGuest => "1 MiB host to guest",
        }
    }

    /// Returns how many operations the short run has, and how many more the long one.
    fn operations(self) -> (u64, u64) {
        match self {
            Self::RandomRead | Self::RandomWrite => (500, 2000),
            Self::SequentialRead => (8, 32),
            Self::GuestToHost | Self::HostToGuest => (4, 32),
        }
    }

    /// Returns the guest's command that does so many operations.
    fn command(self, operations: u64) -> String {
        let fio = |rw, block_kib| {
            format!(
                "fio --name=load --filename=$disk --direct=1 --ioengine=libaio --iodepth=16 \
                 --rw={rw} --bs={block_kib}k --size={}m --io_size={}k --norandommap",
                machine::DISK_MIB,
                operations * block_kib
            )
        };
        let iperf3 = format!("iperf3 --client {HOST_ADDRESS} --bytes {operations}M");
        match self {
            Self::RandomRead => fio("randread", 4),
            Self::RandomWrite => fio("randwrite", 4),
            Self::SequentialRead => fio("read", 1024),
            Self::GuestToHost => iperf3,
            Self::HostToGuest => iperf3 + " --reverse",
        }
    }

    fn is_net(self) -> bool {
        Self::NET.contains(&self)
    }
}

/// A program with one of its ways to attach a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    /// Our VMM, a disk on virtio-mmio, a system call per request.
    VmmSync,
    /// The same with io_uring.
    VmmUring,
    /// The same on PCI, which is what our VMM does unless told otherwise.
    VmmUringPci,
    /// QEMU's microvm, a disk on virtio-mmio, `aio=threads`.
    QemuThreads,
    /// The same with `aio=io_uring`.
    QemuUring,
    /// Our VMM, a network card on virtio-mmio.
    VmmNet,
    /// The same on PCI.
    VmmNetPci,
    /// QEMU's microvm, a network card on virtio-mmio, served by QEMU itself.
    QemuNet,
}

impl Contender {
    /// Those with a disk, in the order that they take turns in.
    const BLOCK: [Self; 5] =
        [Self::VmmSync, Self::QemuThreads, Self::VmmUring, Self::QemuUring, Self::VmmUringPci];
    /// Those with a network card.
    const NET: [Self; 3] = [Self::VmmNet, Self::QemuNet, Self::VmmNetPci];

    /// Returns those that take on a load.
    pub(super) fn of(load: Load) -> &'static [Self] {
        if load.is_net() { &Self::NET } else { &Self::BLOCK }
    }

    /// Returns the name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::VmmSync => "vmm, mmio, sync",
            Self::VmmUring => "vmm, mmio, io_uring",
            Self::VmmUringPci => "vmm, PCI, io_uring",
            Self::QemuThreads => "QEMU, mmio, threads",
            Self::QemuUring => "QEMU, mmio, io_uring",
            Self::VmmNet => "vmm, mmio",
            Self::VmmNetPci => "vmm, PCI",
            Self::QemuNet => "QEMU, mmio",
        }
    }

    /// Returns what it is compared with.
    pub(super) fn baseline(self) -> Self {
        match self {
            Self::VmmSync | Self::QemuThreads => Self::QemuThreads,
            Self::VmmUring | Self::VmmUringPci | Self::QemuUring => Self::QemuUring,
            Self::VmmNet | Self::VmmNetPci | Self::QemuNet => Self::QemuNet,
        }
    }

    /// Whether it's held to a bar: ours are on the transport that QEMU's microvm has.
    pub(super) fn has_bar(self) -> bool {
        matches!(self, Self::VmmSync | Self::VmmUring | Self::VmmNet)
    }

    fn is_net(self) -> bool {
        Self::NET.contains(&self)
    }

    fn loads(self) -> &'static [Load] {
        if self.is_net() { &Load::NET } else { &Load::BLOCK }
    }
}

/// What some operations cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// What was done.
    pub(super) load: Load,
    /// By whom.
    pub(super) contender: Contender,
    /// How often.
    pub(super) operations: u64,
    /// CPU time of all of them, in user space and the guest, in microseconds.
    pub(super) user_us: u64,
    /// The same in the host's kernel.
    pub(super) system_us: u64,
}

/// Takes `runs` samples of each contender with each load that `what` asks for.
///
/// # Errors
///
/// Fails when a guest doesn't come up or a load fails in it.
pub(super) fn run(what: What, runs: u32, programs: &Path, artifacts: &Path) -> Result<Vec<Sample>> {
    let mut contenders = Vec::new();
    if what.has_block() {
        contenders.extend(Contender::BLOCK);
    }
    if what.has_net() {
        contenders.extend(Contender::NET);
    }
    let mut samples = Vec::new();
    if contenders.is_empty() {
        return Ok(samples);
    }
    let stage = Stage::new(programs, artifacts)?;
    for run in 1..=runs {
        for &contender in &contenders {
            let measured = measure(&stage, contender)
                .with_context(|| format!("no measurement of {}", contender.title()))?;
            for sample in &measured {
                report_progress(&format!("run {run} of {runs}"), sample);
            }
            samples.extend(measured);
        }
    }
    Ok(samples)
}

fn report_progress(run: &str, sample: &Sample) {
    let &Sample { load, contender, operations, user_us, system_us } = sample;
    eprintln!(
        "{run}: {}, {}: {} us of CPU time each",
        load.title(),
        contender.title(),
        (user_us + system_us) / operations
    );
}

/// Boots one guest and puts all its loads on it.
fn measure(stage: &Stage, contender: Contender) -> Result<Vec<Sample>> {
    let cgroup = Cgroup::create("xtask-bench")?;
    let mut shell = Shell::start(&mut cgroup.enter(&stage.command(contender)))?;
    shell.run(machine::guest_setup(contender))?;
    let mut samples = Vec::new();
    for &load in contender.loads() {
        let (fewer, more) = load.operations();
        cost(&cgroup, &mut shell, load, fewer)?;
        let short = cost(&cgroup, &mut shell, load, fewer)?;
        let long = cost(&cgroup, &mut shell, load, fewer + more)?;
        samples.push(Sample {
            load,
            contender,
            operations: more,
            user_us: long.user_us.saturating_sub(short.user_us),
            system_us: long.system_us.saturating_sub(short.system_us),
        });
    }
    Ok(samples)
}

/// Runs a load once and returns the CPU time of the machine meanwhile.
fn cost(cgroup: &Cgroup, shell: &mut Shell, load: Load, operations: u64) -> Result<CpuTime> {
    let server = load.is_net().then(Server::start).transpose()?;
    let before = cgroup.cpu_time()?;
    shell.run(&load.command(operations))?;
    let after = cgroup.cpu_time()?;
    if let Some(server) = server {
        server.finish()?;
    }
    Ok(CpuTime {
        user_us: after.user_us - before.user_us,
        system_us: after.system_us - before.system_us,
    })
}

/// iperf3's server on the host, for one client. Its own CPU time isn't counted.
struct Server {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts it and waits until it listens.
    fn start() -> Result<Self> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--one-off", "--forceflush"]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        let output = child.stdout.take().context("the server's output is piped")?;
        let mut server = Self { child, output: BufReader::new(output).lines() };
        for line in &mut server.output {
            if line.context("cannot read what iperf3's server says")?.contains("Server listening") {
                return Ok(server);
            }
        }
        bail!("iperf3's server ended before it listened")
    }

    /// Waits until it has ended, which it does after its client.
    fn finish(mut self) -> Result<()> {
        // Its last words: without a reader, they would end it.
        self.output.by_ref().for_each(drop);
        let status = self.child.wait().context("cannot wait for iperf3's server")?;
        ensure!(status.success(), "iperf3's server failed ({status})");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, unless there was an error, which says more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_has_contenders_and_each_of_them_a_baseline_with_it() {
        for load in Load::ALL {
            for contender in Contender::of(load) {
                assert!(contender.loads().contains(&load));
                assert!(Contender::of(load).contains(&contender.baseline()));
                assert!(!contender.baseline().has_bar());
            }
        }
    }

    #[test]
    fn commands_say_how_much_to_transfer() {
        assert!(Load::RandomWrite.command(500).contains("--bs=4k --size=64m --io_size=2000k"));
        assert!(Load::HostToGuest.command(4).ends_with("--bytes 4M --reverse"));
    }
}
