//! A comparison, from what was asked for to its report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime::Engine;

use crate::interrupt::Interrupt;
use crate::model::{FORMAT, Host, ImageSummary, Report, Settings, Way, WayId, Workload};
use crate::ways::{Containers, FullVms, MicroVms, Runner, Spec, Subject, SubjectOptions, WayError};
use crate::workloads::{Findings, Observer, Plan, Sizes, describe, measure};

/// How long an attempt to reach a server may take. Where everything is slow, an answer takes longer.
const ATTEMPT: Duration = Duration::from_millis(20);
const EMULATED_ATTEMPT: Duration = Duration::from_millis(250);

/// What's asked for.
#[derive(Debug)]
pub struct Options {
    /// The containers' engine.
    pub engine: Engine,
    /// `vmctl`.
    pub vmctl: PathBuf,
    /// The program that sees and measures inside.
    pub probe: PathBuf,
    /// The image: it's in the store already.
    pub image: String,
    /// The command in place of the image's, or empty.
    pub command: Vec<String>,
    /// The ways to go.
    pub ways: Vec<WayId>,
    /// What's to be measured.
    pub workloads: Vec<Workload>,
    /// The container's runtime, if it's not to be chosen.
    pub runtime: Option<String>,
    /// A full VM's kernel and disk, if there are some.
    pub full_vm: Option<(PathBuf, PathBuf)>,
    /// Measured runs of each figure.
    pub runs: u32,
    /// Runs before those.
    pub warm_ups: u32,
    /// Processors of an instance.
    pub cpus: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u32,
    /// The port of the image's server, where the image doesn't say it.
    pub port: Option<u16>,
    /// The path that the server is asked for.
    pub path: String,
    /// How much work there's to be done.
    pub scale: f64,
    /// The most instances of the density's measurement.
    pub most_instances: u32,
    /// The command that repeats it.
    pub command_line: Vec<String>,
    /// Told by Ctrl-C.
    pub interrupt: Interrupt,
}

/// A comparison that's ready to run.
pub struct Comparison {
    subject: Arc<Subject>,
    runners: Vec<Arc<dyn Runner>>,
    ways: Vec<Way>,
    plan: Plan,
    sizes: Sizes,
    image: ImageSummary,
    host: Host,
    command_line: Vec<String>,
    notes: Vec<String>,
}

impl Comparison {
    /// Gets everything ready. What can be known to fail is known from here on: of a way, in its
    /// place; of all, as an error.
    ///
    /// # Errors
    /// The image or its command isn't there, or another comparison runs.
    pub fn prepare(options: Options) -> Result<Self, WayError> {
        let host = Host::now();
        let subject = Arc::new(Subject::new(SubjectOptions {
            engine: options.engine,
            vmctl: options.vmctl,
            reference: options.image,
            probe: options.probe,
            cpus: options.cpus,
            memory_mib: options.memory_mib,
            interrupt: options.interrupt,
        })?);
        let image = subject.summary()?;
        let port = match (options.port, options.command.is_empty()) {
            (Some(port), _) => Some(port),
            // Another command than the image's isn't its server.
            (None, true) => subject.port()?,
            (None, false) => None,
        };
        let mut chosen = Chosen::default();
        let mut notes = Vec::new();
        for id in WayId::ALL.into_iter().filter(|id| options.ways.contains(id)) {
            let runner: Result<Arc<dyn Runner>, WayError> = match id {
                WayId::Container => {
                    let containers =
                        Containers::new(Arc::clone(&subject), options.runtime.as_deref());
                    // The command is looked for before anything runs.
                    if let Ok(containers) = &containers
                        && !options.command.is_empty()
                    {
                        containers.find_command(&options.command)?;
                    }
                    if let Some((bytes, text)) =
                        containers.as_ref().ok().and_then(Containers::own_root)
                    {
                        chosen.sizes.disk.push((id, bytes));
                        chosen.sizes.file_systems.push((id, text));
                    }
                    notes.extend(containers.iter().flat_map(Containers::notes));
                    containers.map(|runner| Arc::new(runner) as _)
                }
                WayId::MicrovmCold => Ok(Arc::new(MicroVms::new(Arc::clone(&subject), false))),
                WayId::MicrovmWarm => Ok(Arc::new(MicroVms::new(Arc::clone(&subject), true))),
                WayId::FullVm => full_vm(&subject, options.full_vm.clone(), &mut chosen.sizes),
            };
            chosen.add(id, runner);
        }
        let Chosen { runners, ways, mut sizes } = chosen;
        sizes_of(&image, &mut sizes);
        let plan = Plan {
            runs: options.runs,
            warm_ups: options.warm_ups,
            workloads: options.workloads,
            command: options.command,
            port,
            path: options.path,
            scale: options.scale,
            most_instances: options.most_instances,
            attempt: if host.emulated { EMULATED_ATTEMPT } else { ATTEMPT },
        };
        let command_line = options.command_line;
        Ok(Self { subject, runners, ways, plan, sizes, image, host, command_line, notes })
    }

    /// The ways that can be gone.
    pub fn runners(&self) -> &[Arc<dyn Runner>] {
        &self.runners
    }

    /// An instance to look at: the user's command or the image's server, else a program of our own
    /// that stays.
    pub fn spec(&self) -> Spec {
        self.plan.spec(String::new())
    }

    /// What was asked to be measured.
    pub fn workloads(&self) -> &[Workload] {
        &self.plan.workloads
    }

    /// What it's about.
    pub fn image(&self) -> &ImageSummary {
        &self.image
    }

    /// Measures all that was asked for.
    pub fn run(&self, observer: &dyn Observer) -> Report {
        self.run_only(&self.plan, observer)
    }

    /// Measures one workload.
    pub fn run_workload(&self, workload: Workload, observer: &dyn Observer) -> Report {
        self.run_only(&Plan { workloads: vec![workload], ..self.plan.clone() }, observer)
    }

    fn run_only(&self, plan: &Plan, observer: &dyn Observer) -> Report {
        let started_at = now();
        let findings = measure(plan, &self.runners, &self.sizes, observer, &self.subject.interrupt);
        let Findings { rows, timelines, curves, isolation, notes, interrupted } = findings;
        let mut all_notes = self.host.notes();
        if let Some(problem) = self.subject.meter_problem() {
            all_notes.push(format!("CPU time and memory can't be counted: {problem}."));
        }
        all_notes.extend(self.notes.iter().cloned());
        all_notes.extend(notes);
        Report {
            format: FORMAT.to_owned(),
            started_at,
            finished_at: now(),
            interrupted,
            command_line: self.command_line.clone(),
            host: self.host.clone(),
            image: self.image.clone(),
            settings: Settings {
                runs: plan.runs,
                warm_ups: plan.warm_ups,
                cpus: self.subject.cpus,
                memory_mib: self.subject.memory_mib,
                command: plan.command.clone(),
                workloads: plan.workloads.clone(),
                scale: plan.scale,
                port: plan.port,
                path: plan.path.clone(),
            },
            ways: self.ways.clone(),
            rows,
            timelines,
            curves,
            isolation,
            notes: all_notes,
        }
    }
}

/// Ways, as they're found to be possible or not.
#[derive(Default)]
struct Chosen {
    runners: Vec<Arc<dyn Runner>>,
    ways: Vec<Way>,
    sizes: Sizes,
}

impl Chosen {
    fn add(&mut self, id: WayId, runner: Result<Arc<dyn Runner>, WayError>) {
        let (detail, failure) = match &runner {
            Ok(runner) => (runner.detail(), None),
            Err(error) => (String::new(), Some(describe(error))),
        };
        self.ways.push(Way { id, detail, failure });
        self.runners.extend(runner);
    }
}

fn full_vm(
    subject: &Arc<Subject>,
    files: Option<(PathBuf, PathBuf)>,
    sizes: &mut Sizes,
) -> Result<Arc<dyn Runner>, WayError> {
    let (kernel, disk) = files.ok_or_else(|| {
        WayError::Unavailable(
            "no disk to boot: name one by --full-vm-disk (cargo xtask demo builds one)".to_owned(),
        )
    })?;
    let full = FullVms::new(Arc::clone(subject), kernel, disk)?;
    sizes.disk.push((WayId::FullVm, full.disk_bytes()?));
    let text = "a disk of its own: one file system, in a qcow2 overlay".to_owned();
    sizes.file_systems.push((WayId::FullVm, text));
    Ok(Arc::new(full))
}

/// What's known of the image.
fn sizes_of(image: &ImageSummary, sizes: &mut Sizes) {
    let layers = image.layers;
    let plural = if layers == 1 { "" } else { "s" };
    let vm =
        format!("overlay in the guest: one EROFS disk of {layers} layer{plural}, an ext4 disk");
    let container = format!("overlay on the host: {layers} EROFS layer{plural}, a directory");
    for way in [WayId::Container, WayId::MicrovmCold, WayId::MicrovmWarm] {
        sizes.wire.push((way, image.wire_bytes));
        // Docker has the image in a form of its own.
        if sizes.disk.iter().any(|(other, _)| *other == way) {
            continue;
        }
        sizes.disk.push((way, image.disk_bytes));
        let text = if way == WayId::Container { &container } else { &vm };
        sizes.file_systems.push((way, text.clone()));
    }
}

/// Finds a file that comes with `vmctl`: where the variable says, else beside the program.
pub fn find_beside(program: &Path, name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let beside = program.parent()?;
    [beside.to_owned(), beside.join("../lib/vmctl"), PathBuf::from("/usr/lib/vmctl")]
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
