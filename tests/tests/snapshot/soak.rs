//! Saved and restored again and again under load on every queue: nothing is lost, done twice or left
//! behind.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use api::config::{NetSpec, VmSpec};
use api::v1::SnapshotType;
use integration_tests::api_vm::{ApiVm, debian_shell, tracked};
use integration_tests::guest::Machine;
use integration_tests::network::Namespace;
use snapshot::merge::SnapshotPaths;

use crate::load::Loads;
use crate::support::{ApiGuest, Devices, ECHO_PORT, Pair, Place};

/// How often the machine is saved and restored; [`ROUNDS_VARIABLE`] names another number.
const ROUNDS: usize = 10;

/// The environment variable that makes a soak last longer.
const ROUNDS_VARIABLE: &str = "VMCTL_SOAK_ROUNDS";

/// How often the machine is paused and resumed.
const PAUSES: usize = 50;

const MEM_MIB: u64 = 256;

/// Writes pseudo-random blocks to the disk, flushes now and then, and reads all of them back, around
/// and around. Says how often it went around.
const DISK_LOAD: &str = "\
n=0
while [ ! -e /tmp/stop ]; do
fio --name=soak --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite \\
--bsrange=512-32k --size=4m --fsync=16 --verify=crc32c --verify_fatal=1 --do_verify=1 \\
--randseed=$((n+1)) >/tmp/fio 2>&1 || { cp /tmp/fio /tmp/wrong; exit; }
n=$((n+1)); echo $n >/tmp/around.new; mv /tmp/around.new /tmp/around
done
touch /tmp/stopped
";

/// Writes a block that nothing else touches, behind what [`DISK_LOAD`] uses.
const WRITE_KEPT: &str = "head -c 1048576 /dev/urandom >/tmp/kept && \
                          dd if=/tmp/kept of=/dev/vdb bs=64k seek=256 conv=fsync 2>/dev/null";

/// Finds that block, on the disk itself.
const COMPARE_KEPT: &str =
    "dd if=/dev/vdb bs=64k skip=256 count=16 iflag=direct 2>/dev/null | cmp - /tmp/kept";

/// What a machine's process and its directory hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    files: Vec<String>,
}

/// A place with a network, and what goes on in its machine.
struct Soak {
    place: Place,
    namespace: Namespace,
    loads: Loads,
}

impl Soak {
    fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::new(name, &[])?;
        Ok(Self { place: Place::new(name)?, namespace, loads: Loads::default() })
    }

    fn vmm(&self) -> Result<ApiVm> {
        // Each has the sockets of the one before, which has removed them.
        ApiVm::spawn_in(&self.namespace, &self.namespace.name, self.place.path())
    }

    fn spec(&self) -> Result<VmSpec> {
        let mut spec = tracked(self.place.with_devices(debian_shell(1, MEM_MIB))?);
        let host_dev_name = Namespace::TAP.to_owned();
        let net = NetSpec { iface_id: "net".to_owned(), host_dev_name, ..NetSpec::default() };
        spec.network_interfaces.push(net);
        Ok(spec)
    }

    /// Boots a guest that sends back what it gets by TCP and over vsock, and has both carry data
    /// from now on.
    fn boot(&self) -> Result<ApiGuest> {
        let mut guest = self.vmm()?.boot(self.spec()?)?;
        let address = Namespace::GUEST;
        guest.run(&format!(
            "for i in /sys/class/net/*; do [ -e $i/device ] && i=${{i##*/}} && break; done; \
             ip addr add {address}/24 dev $i && ip link set $i up"
        ))?;
        guest.start_echo()?;
        guest.run(&format!(
            "socat -d -d TCP-LISTEN:{ECHO_PORT},fork PIPE 2>/tmp/tcp & \
             until grep -q 'listening on' /tmp/tcp; do sleep 0.1; done"
        ))?;
        self.loads.start_tcp(&self.namespace, (address, u16::try_from(ECHO_PORT)?))?;
        self.loads.start_vsock(&self.place.file("vsock"), ECHO_PORT);
        self.loads.await_progress()?;
        Ok(guest)
    }

    /// Counts once more data has gone through the connection that the guest's sockets have.
    fn held(&self, guest: &ApiGuest) -> Result<Held> {
        self.loads.await_progress()?;
        let (descriptors, threads) = guest.vm.descriptors_and_threads()?;
        Ok(Held { descriptors, threads, files: self.place.listing()? })
    }

    /// Saves the machine under load, ends its process, and brings it back in another.
    fn save_and_restore(&self, mut guest: ApiGuest, steps: &mut Steps) -> Result<ApiGuest> {
        let [base, diff, merged] = ["base", "diff", "merged"].map(|name| self.place.pair(name));
        base.take(&mut guest, SnapshotType::Full)?;
        steps.done("full");
        self.loads.await_progress()?;
        steps.done("load");
        guest.vm.api.pause()?;
        diff.create(&mut guest, SnapshotType::Diff)?;
        steps.done("diff");
        let _away = self.loads.expect_vsock_to_break();
        guest.vm.api.kill()?;
        guest.vm.expect_exit(1)?;
        // Its logs have the names of the next one's.
        drop(guest);
        snapshot::merge(paths(&base), paths(&diff), paths(&merged), true)?;
        steps.done("merge");
        let mut params = merged.load();
        params.track_dirty_pages = true;
        let guest = self.vmm()?.restore(params)?;
        steps.done("restore");
        Ok(guest)
    }
}

/// How long each step of a round took, for whoever reads the log: the machine's load decides it.
struct Steps {
    text: String,
    since: Instant,
}

impl Steps {
    fn begin(round: usize) -> Self {
        Self { text: format!("round {round}:"), since: Instant::now() }
    }

    fn done(&mut self, step: &str) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        // Writing to a string can't fail.
        let _ = write!(self.text, " {step} {:.1} s", took.as_secs_f64());
    }
}

fn paths(pair: &Pair) -> SnapshotPaths<'_> {
    SnapshotPaths { state: &pair.state, memory: &pair.memory }
}

fn rounds() -> Result<usize> {
    match std::env::var(ROUNDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{ROUNDS_VARIABLE}={text}")),
        Err(_) => Ok(ROUNDS),
    }
}

fn start_disk_load(guest: &mut ApiGuest) -> Result<()> {
    guest.run(WRITE_KEPT)?;
    guest.write_file("/tmp/load", DISK_LOAD)?;
    guest.run("echo 0 >/tmp/around; sh /tmp/load >/dev/null 2>&1 & true")?;
    Ok(())
}

/// Waits until all blocks were written and read once more, and finds everything on the disk.
fn check_disk(guest: &mut ApiGuest) -> Result<()> {
    guest
        .run(
            "n=$(cat /tmp/around); until [ \"$(cat /tmp/around)\" -gt $((n+1)) ] || \
             [ -e /tmp/wrong ]; do sleep 0.1; done; ! cat /tmp/wrong 2>/dev/null",
        )
        .context("the disk under load")?;
    guest.run(COMPARE_KEPT).context("what was on the disk before")?;
    Ok(())
}

#[test]
fn rounds_of_saving_and_restoring_under_load_lose_nothing_and_leave_nothing() -> Result<()> {
    let soak = Soak::new("soak")?;
    let mut guest = soak.boot()?;
    start_disk_load(&mut guest)?;
    check_disk(&mut guest)?;
    let (rounds, since) = (rounds()?, Instant::now());
    let mut after_the_first = None;
    for round in 1..=rounds {
        let mut steps = Steps::begin(round);
        guest = soak.save_and_restore(guest, &mut steps)?;
        soak.loads.await_progress().with_context(|| format!("after round {round}"))?;
        steps.done("load");
        check_disk(&mut guest).with_context(|| format!("after round {round}"))?;
        steps.done("disk");
        let held = soak.held(&guest)?;
        println!("{}", steps.text);
        let first = after_the_first.get_or_insert_with(|| held.clone());
        ensure!(held == *first, "{held:?} after round {round}, {first:?} after the first");
    }
    println!("{rounds} rounds in {:.0?}: {:?}, {after_the_first:?}", since.elapsed(), soak.loads);
    let output = guest.run("touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done")?;
    ensure!(output.is_empty(), "{output}");
    guest.check_devices(&soak.place.file("vsock"))?;
    soak.loads.stop()?;
    guest.power_off()
}

#[test]
fn pauses_under_load_break_no_connection_and_leave_nothing() -> Result<()> {
    let soak = Soak::new("pauses")?;
    let mut guest = soak.boot()?;
    let before = soak.held(&guest)?;
    for pause in 1..=PAUSES {
        guest.vm.api.pause()?;
        guest.vm.api.resume()?;
        soak.loads.await_progress().with_context(|| format!("after pause {pause}"))?;
    }
    let after = soak.held(&guest)?;
    ensure!(after == before, "{after:?} after {PAUSES} pauses, {before:?} before");
    println!("{PAUSES} pauses: {:?}, {after:?}", soak.loads);
    soak.loads.stop()?;
    guest.power_off()
}
