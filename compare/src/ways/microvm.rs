//! MicroVMs: `vmctl run`, as people call it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::event::Event;
use api::http::{Client, StreamItem};
use rustix::time::{ClockId, clock_gettime};

use super::process::{run, run_ok};
use super::spawned::{Spawned, spawned_methods};
use super::subject::{Neighbour, Subject, at};
use super::{Instance, NAME_PREFIX, Output, PROBE_PATH, Runner, Spec, WayError};
use crate::model::{Step, WayId};

/// How long `vmctl` may take: in an emulated machine everything is slow.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a container in a VM may take to stop before it's killed, in seconds.
const STOP_SECONDS: &str = "10";

/// The last addresses of the network's are taken; `vmctl run` takes the first ones.
const FIRST_FROM_THE_END: u32 = 2;

/// Runs VMs.
#[derive(Debug)]
pub struct MicroVms {
    subject: Arc<Subject>,
    warm: bool,
    kernel: String,
    /// Addresses of instances, which the network may not know of yet.
    addresses: Addresses,
}

type Addresses = Arc<Mutex<BTreeSet<Ipv4Addr>>>;

impl MicroVms {
    /// Boots VMs, or restores them from a template that the first one makes.
    pub fn new(subject: Arc<Subject>, warm: bool) -> Self {
        let info = subject.engine.info().ok();
        let kernel = info.and_then(|info| info.kernel);
        let kernel = kernel.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Self { subject, warm, kernel: kernel.unwrap_or_default(), addresses: Arc::default() }
    }

    /// Takes an address that nobody has.
    fn take_address(&self, bridge: &network::Network) -> Result<Address, WayError> {
        let mut ours = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let networks = self.subject.engine.networks().map_err(refused)?;
        let taken = networks.endpoints(bridge).map_err(refused)?;
        let last = u32::from(bridge.subnet4.broadcast());
        let first = u32::from(bridge.subnet4.network()) + FIRST_FROM_THE_END;
        // Each way begins elsewhere: an address is free again a moment after its VM is gone.
        let offset = FIRST_FROM_THE_END + if self.warm { 64 } else { 0 };
        let is_free = |address: &Ipv4Addr| {
            !ours.contains(address) && !taken.iter().any(|endpoint| endpoint.ipv4 == *address)
        };
        let found = (first..last.saturating_sub(offset)).rev().map(Ipv4Addr::from).find(is_free);
        let address = found
            .ok_or_else(|| WayError::Unavailable("the network has no address left".to_owned()))?;
        ours.insert(address);
        Ok(Address { address, all: Arc::clone(&self.addresses) })
    }

    fn connect(&self, command: &mut Command) -> Result<Connection, WayError> {
        let networks = self.subject.engine.networks().map_err(refused)?;
        let bridge = networks.get(network::DEFAULT_NETWORK).map_err(refused)?;
        let taken = self.take_address(&bridge)?;
        let address = taken.address;
        // An address can be asked for on a network that's named only.
        command.args(["--network", network::DEFAULT_NETWORK, "--ip", &address.to_string()]);
        let mac = network::mac_of(address);
        // Before the first VM there's no bridge.
        let neighbour = Neighbour::add(IpAddr::V4(address), mac, &bridge.bridge).ok();
        Ok(Connection { lease: taken, _neighbour: neighbour })
    }
}

fn refused(error: impl std::fmt::Display) -> WayError {
    WayError::Unavailable(error.to_string())
}

/// Where a VM is on the network.
struct Connection {
    // Taken back before somebody else can have the address.
    _neighbour: Option<Neighbour>,
    lease: Address,
}

/// An address that no other instance gets until it's dropped.
struct Address {
    address: Ipv4Addr,
    all: Addresses,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

impl Runner for MicroVms {
    fn id(&self) -> WayId {
        if self.warm { WayId::MicrovmWarm } else { WayId::MicrovmCold }
    }

    fn detail(&self) -> String {
        format!("vmctl {}, {}", env!("CARGO_PKG_VERSION"), self.kernel)
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        let started_ns = monotonic_ns();
        let started = Instant::now();
        let metered = self.subject.meter.instance(&spec.name)?;
        let name = format!("{NAME_PREFIX}{}", spec.name);
        let mut command = Command::new(&self.subject.vmctl);
        command.args(["run", "--rm", "--pull=never", "--name", &name]);
        command.arg(format!("--hostname={}", spec.name));
        command.arg(format!("--cpus={}", self.subject.cpus));
        command.arg(format!("--memory={}m", self.subject.memory_mib));
        if !self.warm {
            command.arg("--no-template");
        }
        if spec.privileged {
            command.arg("--privileged");
        }
        let connection = if spec.network {
            Some(self.connect(&mut command)?)
        } else {
            command.arg("--network=none");
            None
        };
        if spec.probe {
            command.args(["--entrypoint", PROBE_PATH, &self.subject.probe_image]);
        } else {
            command.arg(&self.subject.image_id);
        }
        command.args(&spec.command);
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(MicroVm {
            name,
            started_ns,
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            connection,
            subject: Arc::clone(&self.subject),
        }))
    }
}

struct MicroVm {
    name: String,
    started_ns: u64,
    spawned: Spawned,
    connection: Option<Connection>,
    subject: Arc<Subject>,
}

impl MicroVm {
    fn vmctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.subject.vmctl);
        command.args(arguments);
        command
    }

    fn events(&self) -> Option<Vec<Event>> {
        let inspected = self.subject.engine.inspect(&self.name).ok()?;
        let socket = inspected["Vm"]["ApiSocket"].as_str()?;
        let client = Client::connect(socket.as_ref()).ok()?;
        let events = client.events(false).ok()?;
        let known = |item| match item {
            Ok(StreamItem::Event(event)) => Some(event),
            _ => None,
        };
        Some(events.filter_map(known).collect())
    }
}

impl Instance for MicroVm {
    spawned_methods!();

    fn address(&mut self, port: u16) -> Result<SocketAddr, WayError> {
        let connection = self.connection.as_ref();
        let connection =
            connection.ok_or_else(|| WayError::Unavailable("it has no network".to_owned()))?;
        Ok(at(IpAddr::V4(connection.lease.address), port))
    }

    fn steps(&mut self) -> Vec<Step> {
        let events = self.events().unwrap_or_default();
        events.iter().filter_map(|event| step(event, self.started_ns)).collect()
    }

    fn exec(&self, command: &[&str]) -> Result<Output, WayError> {
        let mut exec = self.vmctl(&["exec", &self.name]);
        exec.args(command);
        run(self.spawned.metered.enter(exec), PATIENCE, Some(&self.subject.interrupt))
    }

    fn stop(&mut self) -> Result<(), WayError> {
        if self.spawned.is_running() {
            let stop = self.vmctl(&["stop", "--time", STOP_SECONDS, &self.name]);
            run_ok(self.spawned.metered.enter(stop), PATIENCE, None)?;
        }
        self.spawned.wait_gone()
    }
}

impl Drop for MicroVm {
    fn drop(&mut self) {
        self.spawned.kill();
        // `--rm` has removed one that ended by itself.
        if self.subject.engine.find(&self.name).is_ok() {
            let _ = run(self.vmctl(&["rm", "--force", "--volumes", &self.name]), PATIENCE, None);
        }
    }
}

/// An event, as a step since the command's start.
pub(super) fn step(event: &Event, started_ns: u64) -> Option<Step> {
    let (name, at_ns) = match event {
        Event::ProcessStarted { monotonic_ns } => ("VMM process started", monotonic_ns),
        Event::VmCreated { monotonic_ns } => ("VM created", monotonic_ns),
        Event::KernelEntered { monotonic_ns } => ("kernel entered", monotonic_ns),
        Event::GuestBooted { monotonic_ns } => ("guest's init runs", monotonic_ns),
        Event::SnapshotLoaded { monotonic_ns, .. } => ("snapshot loaded", monotonic_ns),
        Event::Resumed { monotonic_ns } => ("VM resumed", monotonic_ns),
        _ => return None,
    };
    // One that the template's making left in the record isn't this start's.
    let since = at_ns.checked_sub(started_ns)?;
    Some(Step { name: name.to_owned(), at_us: since as f64 / 1000.0 })
}

/// `CLOCK_MONOTONIC`, as VMMs tell it.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
