//! Answers questions, and what concerns the process rather than the machine: log, metrics,
//! metadata.

use api::config::{
    BalloonSpec, LogLevel, LoggerSpec, MachineSpec, MetricsSpec, MmdsConfig, MmdsVersion, VmConfig,
    VmSpec,
};
use api::ext::VmDetails;
use api::v1::{InstanceInfo, InstanceState};
use api::{ApiError, Status as HttpStatus};
use devices::mmds::{MmdsConfig as DeviceMmds, MmdsStoreError, MmdsVersion as DeviceVersion};
use log::LevelFilter;
use serde_json::Value;

use super::metrics::Subject;
use super::{VmState, Vmm, prometheus};
use crate::error::VmmError;
use crate::logger;
use crate::status::monotonic_ns;

/// How the VMM calls itself.
const APP_NAME: &str = "vmctl";

/// What the metadata is before anybody has put any.
const NO_METADATA: &str =
    "The MMDS data store is not initialized: PUT /mmds with the metadata first.";

impl Vmm {
    pub(super) fn instance_info(&self) -> InstanceInfo {
        InstanceInfo {
            app_name: APP_NAME.to_owned(),
            id: self.settings.id.clone(),
            state: self.instance_state(),
            vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn instance_state(&self) -> InstanceState {
        match self.state {
            VmState::NotStarted => InstanceState::NotStarted,
            VmState::Running => InstanceState::Running,
            VmState::Paused => InstanceState::Paused,
        }
    }

    /// Returns the machine's configuration as it is now, or that which was given so far.
    pub(super) fn full_config(&self) -> VmSpec {
        match &self.machine {
            Some(machine) => VmSpec::from(machine.config().clone()),
            None => {
                let mut spec = self.configuration.spec().clone();
                if spec.machine_config.is_none() {
                    spec.machine_config = self.machine_config().ok();
                }
                spec
            }
        }
    }

    /// Returns vCPUs and memory with every default written out.
    pub(super) fn machine_config(&self) -> Result<MachineSpec, ApiError> {
        let machine = match &self.machine {
            Some(machine) => machine.config().machine,
            None => self.configuration.machine()?,
        };
        Ok(machine.into())
    }

    pub(super) fn balloon_config(&self) -> Result<BalloonSpec, ApiError> {
        let missing =
            || ApiError::bad_request("this VM has no balloon: PUT /balloon before it starts");
        self.full_config().balloon.ok_or_else(missing)
    }

    pub(super) fn details(&self) -> VmDetails {
        VmDetails {
            id: self.settings.id.clone(),
            state: self.instance_state(),
            vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ns: self.machine_started_ns,
            now_ns: monotonic_ns(),
            restored_from: self.restored_from.clone(),
            devices: self.machine.as_ref().map(|machine| machine.devices()).unwrap_or_default(),
            config: self.full_config(),
        }
    }

    /// Lists all that is counted.
    fn subjects(&self) -> Vec<Subject> {
        let mut subjects = self.metrics.subjects();
        subjects.extend(self.machine.iter().flat_map(|machine| machine.counters()));
        subjects.push(super::mmds_subject(&self.mmds));
        subjects
    }

    pub(super) fn prometheus(&self) -> String {
        let mut subjects = self.subjects();
        subjects.push(Subject {
            kind: "vm",
            id: None,
            counters: vec![("state", u64::from(self.state as u8))],
        });
        prometheus::render(&self.settings.id, &subjects)
    }

    /// Writes the metrics. What a full pipe can't take is lost and counted.
    pub(super) fn flush_metrics(&mut self) {
        if !self.metrics.has_destination() {
            return;
        }
        let subjects = self.subjects();
        if let Err(error) = self.metrics.flush(&subjects) {
            log::warn!("metrics are lost: {error}");
        }
    }

    pub(super) fn configure_metrics(&mut self, spec: &MetricsSpec) -> Result<(), ApiError> {
        if self.metrics.has_destination() {
            return Err(ApiError::bad_request(
                "The metrics system was already initialized: it can be configured once.",
            ));
        }
        let path = &spec.metrics_path;
        self.metrics.write_to(path).map_err(|error| {
            ApiError::bad_request(format!("can't open the metrics' file {path:?}: {error}"))
        })
    }

    /// Carries the parts of a configuration out that concern the process: log, metrics, metadata.
    ///
    /// # Errors
    /// When a file can't be opened.
    pub(super) fn use_config(&mut self, config: &VmConfig) -> Result<(), VmmError> {
        if let Some(logger) = &config.logger {
            let spec = LoggerSpec::from(logger.clone());
            logger::reconfigure(spec.log_path.as_deref(), |settings| apply(&spec, settings))
                .map_err(|source| VmmError::os("open the log's file", source))?;
        }
        if let Some(metrics) = &config.metrics
            && !self.metrics.has_destination()
        {
            self.metrics
                .write_to(&metrics.path)
                .map_err(|source| VmmError::os("open the metrics' file", source))?;
        }
        self.use_mmds_config(config.mmds.as_ref())
    }

    /// Has the metadata service answer where `config` says, or nowhere.
    pub(super) fn use_mmds_config(&self, config: Option<&MmdsConfig>) -> Result<(), VmmError> {
        let Some(config) = config else { return Ok(()) };
        let config = DeviceMmds {
            version: match config.version {
                MmdsVersion::V1 => DeviceVersion::V1,
                MmdsVersion::V2 => DeviceVersion::V2,
            },
            network_interfaces: config.nets.clone(),
            ipv4_address: config.address,
            imds_compat: config.imds_compat,
        };
        let invalid =
            |error| VmmError::os("configure the metadata service", std::io::Error::other(error));
        self.mmds.set_config(config).map_err(invalid)
    }

    /// Returns the metadata; `null` where there is none.
    pub(super) fn mmds(&self) -> Result<Value, ApiError> {
        Ok(self.mmds.get())
    }

    pub(super) fn put_mmds(&self, value: Value) -> Result<(), ApiError> {
        self.mmds.put(value).map_err(|error| mmds_error(&error))
    }

    pub(super) fn patch_mmds(&self, value: Value) -> Result<(), ApiError> {
        self.mmds.patch(&value).map_err(|error| mmds_error(&error))
    }
}

fn mmds_error(error: &MmdsStoreError) -> ApiError {
    match error {
        MmdsStoreError::NotInitialized => ApiError::bad_request(NO_METADATA),
        MmdsStoreError::TooLarge { .. } => {
            ApiError::new(HttpStatus::PayloadTooLarge, error.to_string())
        }
    }
}

/// Changes log settings; what isn't given stays.
fn apply(spec: &LoggerSpec, settings: &mut logger::LogSettings) {
    if let Some(level) = spec.level {
        settings.level = level_filter(level);
    }
    if let Some(show) = spec.show_log_origin {
        settings.show_origin = show;
    }
    if spec.module.is_some() {
        settings.module.clone_from(&spec.module);
    }
}

pub(super) fn configure_logger(spec: &LoggerSpec) -> Result<(), ApiError> {
    logger::reconfigure(spec.log_path.as_deref(), |settings| apply(spec, settings)).map_err(
        |error| {
            let path = spec.log_path.clone().unwrap_or_default();
            ApiError::bad_request(format!("can't open the log's file {path:?}: {error}"))
        },
    )
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warning => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}
