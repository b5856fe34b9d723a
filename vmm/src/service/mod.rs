//! The VM as its clients see it: takes [`VmmAction`]s, one after the other, on the main thread.
//!
//! ```text
//! api thread ──submit──▶ Inbox ──▶ run.rs: Vmm::serve ──▶ Vmm::carry_out ──reply──▶ api thread
//!                                                             │
//!       state.rs decides · configure.rs before the start · change.rs, snapshots.rs after it
//! ```

mod change;
mod configure;
mod inbox;
mod metrics;
mod prometheus;
mod report;
mod run;
mod snapshots;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::action::{VmmAction, VmmData};
use api::config::VmSpec;
use api::event::Event;
use api::http::Reply;
use devices::mmds::Mmds;

use crate::cli::Cli;
use crate::error::VmmError;
use crate::host_probe;
use crate::machine::{Machine, MachineBuilder, Surroundings};
use crate::status::{Status, monotonic_ns};
use crate::stop::{StopReason, StopSignal};

pub use inbox::Inbox;
pub(crate) use metrics::{Counters, Subject};
pub use run::Wakes;
pub use state::VmState;

use configure::Configuration;
use metrics::Metrics;
use snapshots::{Capture, LastSnapshot, Pager};

/// What a VM is given by the command line that started its process.
pub struct Settings {
    /// The VM's identifier.
    pub id: String,
    /// How long a guest may take to power off after a signal.
    pub shutdown_timeout: Duration,
    /// Whether the guest gets the boot timer's register.
    pub boot_timer: bool,
    /// When the process started, by `CLOCK_MONOTONIC` in nanoseconds.
    pub started_ns: u64,
    /// Where metrics go from the start.
    pub metrics_path: Option<PathBuf>,
}

impl Settings {
    /// Takes them from the command line.
    pub fn of(cli: &Cli, started_ns: u64) -> Self {
        Self {
            id: cli.id.clone(),
            shutdown_timeout: cli.shutdown_timeout(),
            boot_timer: cli.boot_timer,
            started_ns: cli.start_time_us.map_or(started_ns, |us| us.saturating_mul(1000)),
            metrics_path: cli.metrics_path.clone(),
        }
    }
}

/// One VM, from its configuration to its end.
pub struct Vmm {
    settings: Settings,
    status: Status,
    stop: Arc<StopSignal>,
    mmds: Arc<Mmds>,
    metrics: Metrics,
    configuration: Configuration,
    machine: Option<Machine>,
    state: VmState,
    /// Whether the main thread's loop serves the machine.
    connected: bool,
    /// When the machine was started or loaded.
    machine_started_ns: Option<u64>,
    /// The snapshot that the machine was loaded from.
    restored_from: Option<PathBuf>,
    /// What the next differential snapshot builds upon.
    last_snapshot: Option<LastSnapshot>,
    /// Who supplies the pages of a machine that was loaded lazily.
    pager: Option<Pager>,
    /// A live fork that isn't complete.
    capture: Option<Capture>,
    /// The guest was asked to power off, and has until this time.
    deadline: Option<Duration>,
}

/// How an action ended.
enum Outcome {
    /// The client is answered now.
    Done(Result<VmmData, ApiError>),
    /// The client is answered later, by whoever has taken the reply over.
    Later,
}

impl Vmm {
    /// Creates a VM without a configuration.
    ///
    /// # Errors
    /// When the host has no descriptors left, or the metrics' file can't be opened.
    pub fn new(
        settings: Settings,
        status: Status,
        stop: Arc<StopSignal>,
        mmds: Arc<Mmds>,
    ) -> Result<Self, VmmError> {
        let mut metrics = Metrics::new(settings.started_ns);
        if let Some(path) = &settings.metrics_path {
            metrics
                .write_to(path)
                .map_err(|source| VmmError::os("open the metrics' file", source))?;
        }
        Ok(Self {
            settings,
            status,
            stop,
            mmds,
            metrics,
            configuration: Configuration::default(),
            machine: None,
            state: VmState::NotStarted,
            connected: false,
            machine_started_ns: None,
            restored_from: None,
            last_snapshot: None,
            pager: None,
            capture: None,
            deadline: None,
        })
    }

    /// Takes over a configuration file's contents and starts the machine.
    ///
    /// # Errors
    /// [`VmmError`] when the configuration is wrong or the machine can't be built.
    pub fn boot(&mut self, spec: VmSpec) -> Result<(), VmmError> {
        self.configuration = Configuration::of(spec);
        self.start()
    }

    /// Carries out `action` if the state allows it, and counts how it went.
    fn carry_out(&mut self, action: VmmAction, reply: Reply) {
        let name = action.name();
        log::debug!("action {name}");
        let mut reply = Some(reply);
        let outcome = match self.state.check(&action) {
            Ok(()) => self.dispatch(action, &mut reply),
            Err(error) => Outcome::Done(Err(error)),
        };
        if let (Outcome::Done(result), Some(reply)) = (outcome, reply) {
            if let Err(error) = &result {
                log::info!("action {name} refused: {error}");
            }
            self.metrics.count_request(name, result.is_ok());
            reply.send(result);
        }
    }

    /// Hands `action` to the part of the VM that it is about. Whoever answers later takes `reply`.
    fn dispatch(&mut self, action: VmmAction, reply: &mut Option<Reply>) -> Outcome {
        use VmmAction as A;
        let done = match action {
            A::Fork(params) => return self.fork(&params, reply),
            A::GetInstanceInfo => Ok(VmmData::InstanceInfo(self.instance_info())),
            A::GetVersion => Ok(VmmData::Version(env!("CARGO_PKG_VERSION").to_owned())),
            A::GetVmConfig => Ok(VmmData::VmConfig(Box::new(self.full_config()))),
            A::GetMachineConfig => self.machine_config().map(VmmData::MachineConfig),
            A::GetBalloon => self.balloon_config().map(VmmData::Balloon),
            A::GetMmds => self.mmds().map(VmmData::Mmds),
            A::GetMetrics => Ok(VmmData::Metrics(self.prometheus())),
            A::GetTimeline => Ok(VmmData::Timeline(self.status.timeline())),
            A::GetDetails => Ok(VmmData::Details(Box::new(self.details()))),
            A::GetBalloonStats => {
                self.balloon_stats().map(|it| VmmData::BalloonStats(Box::new(it)))
            }
            A::GetHintingStatus => self.hinting_status().map(VmmData::HintingStatus),
            A::GetMemoryHotplug => self.memory_hotplug().map(VmmData::MemoryHotplug),
            action => self.change(action).map(|()| VmmData::Empty),
        };
        Outcome::Done(done)
    }

    /// Carries out what has no answer but success.
    fn change(&mut self, action: VmmAction) -> Result<(), ApiError> {
        use VmmAction as A;
        match action {
            A::ConfigureBootSource(spec) => self.configuration.set_boot_source(spec),
            A::InsertDrive(spec) => self.configuration.insert_drive(spec),
            A::InsertNet(spec) => self.configuration.insert_net(spec),
            A::AddFilesystem(spec) if self.machine.is_none() => {
                self.configuration.insert_filesystem(spec)
            }
            A::RemoveFilesystem(id) if self.machine.is_none() => {
                self.configuration.remove_filesystem(&id)
            }
            A::InsertPmem(spec) => self.configuration.insert_pmem(spec),
            A::SetMachineConfig(spec) => self.configuration.set_machine(spec),
            A::UpdateMachineConfig(patch) => self.configuration.update_machine(patch),
            A::SetVsock(spec) => self.configuration.set_vsock(spec),
            A::SetEntropy(spec) => self.configuration.set_entropy(spec),
            A::SetBalloon(spec) => self.configuration.set_balloon(spec),
            A::SetMemoryHotplug(spec) => self.configuration.set_memory_hotplug(spec),
            A::SetMmdsConfig(spec) => self.configuration.set_mmds(spec),
            A::ConfigureSerial(spec) => self.configuration.set_serial(spec),
            A::SetCpuConfig(template) => self.configuration.set_cpu(template),
            A::ConfigureLogger(spec) => report::configure_logger(&spec),
            A::ConfigureMetrics(spec) => self.configure_metrics(&spec),
            A::PutMmds(value) => self.put_mmds(value),
            A::PatchMmds(value) => self.patch_mmds(value),
            A::InstanceStart => self.start().map_err(|error| fault(&error)),
            A::LoadSnapshot(params) => self.load_snapshot(params),
            action => self.change_machine(action),
        }
    }

    /// Builds the machine and lets it run.
    fn start(&mut self) -> Result<(), VmmError> {
        let config = self.configuration.validate()?;
        host_probe::can_run_linux()?;
        self.use_config(&config)?;
        let around = self.surroundings();
        let mut machine = MachineBuilder::new(config, around).build()?;
        self.status.send(&Event::VmCreated { monotonic_ns: monotonic_ns() });
        self.status.send(&Event::KernelEntered { monotonic_ns: monotonic_ns() });
        machine.start()?;
        self.adopt(machine, VmState::Running);
        Ok(())
    }

    /// Has `machine` be this VM's from now on.
    fn adopt(&mut self, machine: Machine, state: VmState) {
        self.machine = Some(machine);
        self.state = state;
        self.machine_started_ns = Some(monotonic_ns());
    }

    /// Returns what a machine shares with the process around it.
    fn surroundings(&self) -> Surroundings {
        Surroundings {
            stop: Arc::clone(&self.stop),
            mmds: Arc::clone(&self.mmds),
            status: self.status.clone(),
            boot_timer_since_ns: self.settings.boot_timer.then_some(self.settings.started_ns),
        }
    }

    /// Returns the machine that the state says is there.
    fn machine(&mut self) -> Result<&mut Machine, ApiError> {
        self.machine.as_mut().ok_or_else(|| ApiError::internal("there is no machine"))
    }

    /// Ends the machine at once, when the answers that are under way are sent.
    fn kill(&self) {
        self.stop.request(StopReason::Killed);
    }
}

/// Lists what the metadata service has counted.
fn mmds_subject(mmds: &Mmds) -> Subject {
    let metrics = mmds.metrics();
    let counters = vec![
        ("rx_accepted", metrics.rx_accepted.get()),
        ("rx_accepted_err", metrics.rx_accepted_err.get()),
        ("rx_accepted_unusual", metrics.rx_accepted_unusual.get()),
        ("rx_bad_eth", metrics.rx_bad_eth.get()),
        ("rx_count", metrics.rx_count.get()),
        ("rx_no_token", metrics.rx_no_token.get()),
        ("rx_invalid_token", metrics.rx_invalid_token.get()),
        ("tx_bytes", metrics.tx_bytes.get()),
        ("tx_count", metrics.tx_count.get()),
        ("tx_errors", metrics.tx_errors.get()),
        ("tx_frames", metrics.tx_frames.get()),
        ("connections_created", metrics.connections_created.get()),
        ("connections_destroyed", metrics.connections_destroyed.get()),
    ];
    Subject { kind: "mmds", id: None, counters }
}

/// Says to a client what went wrong, with its causes.
fn fault(error: &VmmError) -> ApiError {
    match error {
        VmmError::Config(error) => ApiError::from_chain(error),
        error => ApiError::from_chain(error),
    }
}
