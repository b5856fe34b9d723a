//! The flags of `run` and `create`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use runtime::{
    ContainerConfig, ExtraHost, HealthConfig, LogConfig, LogDriver, MountKind, MountSpec,
    NetworkAttachment, PortSpec, RestartPolicy, Ulimit,
};

use super::values::{amounts, env, mounts, names, policy, ports, times};
use crate::errors::containers::ContainerError;

/// What a container is made of.
#[derive(Debug, Args)]
pub(crate) struct CreateFlags {
    /// Keep STDIN open even if not attached.
    #[arg(long, short)]
    pub(super) interactive: bool,

    /// Allocate a pseudo-TTY.
    #[arg(long, short)]
    pub(super) tty: bool,

    /// Automatically remove the container when it exits.
    #[arg(long)]
    pub(super) rm: bool,

    /// Assign a name to the container.
    #[arg(long, value_name = "NAME", value_parser = names::name)]
    name: Option<String>,

    /// Container host name.
    #[arg(long, short = 'h', value_name = "NAME", value_parser = names::hostname)]
    hostname: Option<String>,

    /// Container NIS domain name.
    #[arg(long, value_name = "NAME", value_parser = names::hostname)]
    domainname: Option<String>,

    /// Publish a container's port(s) to the host: [IP:][HOST-PORT:]PORT[/PROTOCOL].
    #[arg(long, short, value_name = "PORT", value_parser = Many::ports)]
    publish: Vec<Many<PortSpec>>,

    /// Publish all exposed ports to random ports.
    #[arg(long, short = 'P')]
    publish_all: bool,

    /// Expose a port or a range of ports: PORT[-PORT][/PROTOCOL].
    #[arg(long, value_name = "PORT", value_parser = Many::exposed)]
    expose: Vec<Many<String>>,

    /// Bind mount a host directory, or mount a volume: [SOURCE:]TARGET[:ro].
    ///
    /// A source with a slash is a directory or a file of the host, which must be there; a name is
    /// a volume, which is made if there's none.
    #[arg(long, short, value_name = "MOUNT", value_parser = mounts::volume)]
    volume: Vec<MountSpec>,

    /// Attach a filesystem mount to the container: type=bind|volume|tmpfs,source=...,target=....
    #[arg(long, value_name = "MOUNT", value_parser = mounts::mount)]
    mount: Vec<MountSpec>,

    /// Mount a tmpfs directory: TARGET[:size=SIZE,mode=MODE].
    #[arg(long, value_name = "TARGET", value_parser = mounts::tmpfs)]
    tmpfs: Vec<MountSpec>,

    /// Set environment variables: NAME=VALUE, or NAME for the host's value.
    #[arg(long, short, value_name = "VARIABLE", value_parser = env::variable)]
    env: Vec<env::Variable>,

    /// Read in a file of environment variables.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Working directory inside the container.
    #[arg(long, short, value_name = "DIR", value_parser = absolute)]
    workdir: Option<String>,

    /// Username or UID: NAME|UID[:GROUP|GID].
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,

    /// Add additional groups to join.
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,

    /// Overwrite the default ENTRYPOINT of the image; an empty one takes it away.
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,

    /// Number of CPUs, such as 1.5.
    #[arg(long, value_name = "NUMBER", value_parser = amounts::nano_cpus)]
    cpus: Option<u64>,

    /// Memory limit, such as 512m.
    #[arg(long, short, value_name = "SIZE", value_parser = amounts::bytes)]
    memory: Option<u64>,

    /// Tune container pids limit (-1 for unlimited).
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// Size of /dev/shm, such as 64m.
    #[arg(long, value_name = "SIZE", value_parser = amounts::bytes)]
    shm_size: Option<u64>,

    /// Connect a container to a network; `none` for no network.
    #[arg(long, alias = "net", value_name = "NETWORK", value_parser = names::network)]
    network: Vec<String>,

    /// Add network-scoped alias for the container.
    #[arg(long, alias = "net-alias", value_name = "NAME", value_parser = names::hostname)]
    network_alias: Vec<String>,

    /// IPv4 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// IPv6 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,

    /// Set custom DNS servers.
    #[arg(long, value_name = "ADDRESS", value_parser = names::dns_server)]
    dns: Vec<IpAddr>,

    /// Set custom DNS search domains.
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,

    /// Set DNS options.
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,

    /// Add a custom host-to-IP mapping: NAME:ADDRESS, or NAME:host-gateway.
    #[arg(long, value_name = "MAPPING", value_parser = names::extra_host)]
    add_host: Vec<ExtraHost>,

    /// Mount the container's root filesystem as read only.
    #[arg(long)]
    read_only: bool,

    /// Restart policy to apply when a container exits: no, always, on-failure[:RETRIES] or
    /// unless-stopped.
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = policy::restart)]
    restart: RestartPolicy,

    /// Set meta data on a container: NAME[=VALUE].
    #[arg(long, short, value_name = "LABEL", value_parser = env::label)]
    label: Vec<(String, String)>,

    /// Read in a file of labels.
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,

    /// Signal to stop the container.
    #[arg(long, value_name = "SIGNAL", value_parser = policy::signal)]
    stop_signal: Option<i32>,

    /// Timeout to stop a container, in seconds; -1 to wait for ever.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i32>,

    /// Ulimit options: NAME=SOFT[:HARD].
    #[arg(long, value_name = "LIMIT", value_parser = amounts::ulimit)]
    ulimit: Vec<Ulimit>,

    /// Command to run to check health, by the shell.
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,

    /// Time between running the check, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    health_interval: Option<Duration>,

    /// Consecutive failures needed to report unhealthy.
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<u32>,

    /// Maximum time to allow one check to run.
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    health_timeout: Option<Duration>,

    /// Start period for the container to initialize before failures count.
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    health_start_period: Option<Duration>,

    /// Time between running the check during the start period.
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    health_start_interval: Option<Duration>,

    /// Disable any container-specified HEALTHCHECK.
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_retries",
        "health_timeout", "health_start_period", "health_start_interval"])]
    no_healthcheck: bool,

    /// Pull image before running.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub(super) pull: Pull,

    /// Suppress the pull output.
    #[arg(long, short)]
    pub(super) quiet: bool,

    /// Run an init inside the container that forwards signals and reaps processes.
    #[arg(long)]
    init: bool,

    /// Add Linux capabilities.
    #[arg(long, value_name = "CAPABILITY", value_parser = policy::capability)]
    cap_add: Vec<String>,

    /// Drop Linux capabilities.
    #[arg(long, value_name = "CAPABILITY", value_parser = policy::capability)]
    cap_drop: Vec<String>,

    /// Give extended privileges to this container, in its own kernel.
    #[arg(long)]
    privileged: bool,

    /// Security options: no-new-privileges.
    #[arg(long, value_name = "OPTION", value_parser = policy::security_option)]
    security_opt: Vec<bool>,

    /// Sysctl options of the container's own kernel: NAME=VALUE.
    #[arg(long, value_name = "SYSCTL", value_parser = env::label)]
    sysctl: Vec<(String, String)>,

    /// The guest's kernel, an uncompressed vmlinux, in place of the one that comes with vmctl.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,

    /// Set platform of the image: OS/ARCHITECTURE[/VARIANT].
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,

    /// Write the container ID to the file.
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,

    /// Attach to STDIN, STDOUT or STDERR.
    #[arg(long, short, value_name = "STREAM", value_enum, ignore_case = true)]
    pub(super) attach: Vec<Stream>,

    /// Logging driver for the container.
    #[arg(long, value_name = "DRIVER", value_enum, default_value_t)]
    log_driver: Driver,

    /// Log driver options: max-size=SIZE, max-file=NUMBER.
    #[arg(long, value_name = "OPTION", value_parser = LogOption::parse)]
    log_opt: Vec<LogOption>,

    /// Boots the container's VM anew, rather than from a snapshot of one that's booted already.
    #[arg(long)]
    no_template: bool,

    /// Says more on standard error: once what happens, twice for debugging, three times everything.
    #[arg(id = "verbose", long = "verbose", global = true, action = ArgAction::Count)]
    _verbose: u8,

    /// Print usage.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Several values that one word of a command line stands for.
#[derive(Clone, Debug)]
struct Many<T>(Vec<T>);

impl Many<PortSpec> {
    fn ports(text: &str) -> Result<Self, String> {
        ports::publish(text).map(Self)
    }
}

impl Many<String> {
    fn exposed(text: &str) -> Result<Self, String> {
        let ports = ports::exposed(text)?;
        Ok(Self(ports.map(|(port, protocol)| format!("{port}/{protocol}")).collect()))
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Each time.
    Always,
    /// If it isn't there.
    #[default]
    Missing,
    /// Not even then.
    Never,
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where the output is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// In a file of JSON lines.
    #[default]
    JsonFile,
    /// Nowhere.
    None,
}

/// An option of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogOption {
    MaxSize(u64),
    MaxFile(u32),
}

impl LogOption {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("max-size", size)) => amounts::bytes(size).map(Self::MaxSize),
            Some(("max-file", count)) => match count.parse() {
                Ok(0) | Err(_) => Err(format!("invalid value for max-file: {count}")),
                Ok(count) => Ok(Self::MaxFile(count)),
            },
            _ => Err(format!("unknown log opt '{text}'; there are max-size and max-file")),
        }
    }
}

fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(format!("the working directory '{text}' is invalid, it needs to be an absolute path"))
    }
}

impl CreateFlags {
    /// What the runtime is asked for.
    ///
    /// # Errors
    /// Flags contradict one another, or a file that one names can't be used.
    pub(super) fn to_config(
        &self,
        image: &str,
        command: &[String],
    ) -> Result<ContainerConfig, ContainerError> {
        if self.rm && self.restart != RestartPolicy::No {
            return Err(ContainerError::options("conflicting options: --restart and --rm"));
        }
        let variables = env::variables(&self.env_file, &self.env)?;
        let env = variables.into_iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => name,
        });
        let many = |entrypoint: &String| match entrypoint.as_str() {
            "" => Vec::new(),
            program => vec![program.to_owned()],
        };
        Ok(ContainerConfig {
            image: image.to_owned(),
            command: command.to_vec(),
            entrypoint: self.entrypoint.as_ref().map(many),
            env: env.collect(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            name: self.name.clone(),
            labels: env::labels(&self.label_file, &self.label)?,
            tty: self.tty,
            open_stdin: self.interactive,
            mounts: self.mounts()?,
            read_only: self.read_only,
            ports: self.publish.iter().flat_map(|ports| ports.0.clone()).collect(),
            expose: self.expose.iter().flat_map(|ports| ports.0.clone()).collect(),
            publish_all: self.publish_all,
            networks: self.networks()?,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            extra_hosts: self.add_host.clone(),
            restart: self.restart,
            stop_signal: self.stop_signal.map(|number| number.to_string()),
            stop_timeout_s: self.stop_timeout,
            ulimits: self.ulimit.clone(),
            health: self.health()?,
            init: self.init,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            privileged: self.privileged,
            security_opt: self.security_options(),
            sysctls: self.sysctl.iter().cloned().collect(),
            group_add: self.group_add.clone(),
            nano_cpus: self.cpus,
            memory_bytes: self.memory.filter(|bytes| *bytes != 0),
            pids_limit: self.pids_limit.filter(|limit| *limit > 0),
            shm_size_bytes: self.shm_size,
            kernel: self.kernel.clone(),
            platform: self.platform.clone(),
            auto_remove: self.rm,
            log: self.log(),
            no_template: self.no_template,
            ..ContainerConfig::default()
        })
    }

    /// All mounts; no two at one place.
    fn mounts(&self) -> Result<Vec<MountSpec>, ContainerError> {
        let mounts: Vec<_> =
            self.volume.iter().chain(&self.mount).chain(&self.tmpfs).cloned().collect();
        for (at, mount) in mounts.iter().enumerate() {
            if mounts[..at].iter().any(|other| other.target == mount.target) {
                return Err(ContainerError::options(format!(
                    "duplicate mount point: {}",
                    mount.target
                )));
            }
            if mount.kind == MountKind::Bind
                && let Some(source) = &mount.source
                && !std::path::Path::new(source).exists()
            {
                return Err(ContainerError::NoBindSource { path: PathBuf::from(source) });
            }
        }
        Ok(mounts)
    }

    fn networks(&self) -> Result<Vec<NetworkAttachment>, ContainerError> {
        let has_none = self.network.iter().any(|network| network == "none");
        let has_details = !self.network_alias.is_empty() || self.ip.is_some() || self.ip6.is_some();
        if has_none && (self.network.len() > 1 || has_details) {
            return Err(ContainerError::options(
                "conflicting options: a container without a network is on no other one",
            ));
        }
        if self.network.is_empty() && has_details {
            return Err(ContainerError::options(
                "network-scoped aliases and addresses are only supported on a network that \
                 --network names",
            ));
        }
        let attachment = |(at, network): (usize, &String)| NetworkAttachment {
            network: network.clone(),
            aliases: self.network_alias.clone(),
            ipv4: self.ip.filter(|_| at == 0),
            ipv6: self.ip6.filter(|_| at == 0),
            mac: None,
        };
        Ok(self.network.iter().enumerate().map(attachment).collect())
    }

    fn health(&self) -> Result<Option<HealthConfig>, ContainerError> {
        if self.no_healthcheck {
            let test = Some(vec!["NONE".to_owned()]);
            return Ok(Some(HealthConfig { test, ..HealthConfig::default() }));
        }
        let nanos = |time: Option<Duration>| {
            time.map(|time| {
                u64::try_from(time.as_nanos())
                    .map_err(|_| ContainerError::options("a health check's time is too long"))
            })
            .transpose()
        };
        let test = self.health_cmd.as_ref().map(|command| match command.as_str() {
            "" => Vec::new(),
            command => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        });
        let health = HealthConfig {
            test,
            interval_ns: nanos(self.health_interval)?,
            timeout_ns: nanos(self.health_timeout)?,
            start_period_ns: nanos(self.health_start_period)?,
            start_interval_ns: nanos(self.health_start_interval)?,
            retries: self.health_retries,
        };
        Ok(Some(health).filter(|health| *health != HealthConfig::default()))
    }

    fn security_options(&self) -> Vec<String> {
        let forbids = self.security_opt.last().copied().unwrap_or(false);
        if forbids { vec!["no-new-privileges".to_owned()] } else { Vec::new() }
    }

    fn log(&self) -> LogConfig {
        let mut log = LogConfig {
            driver: match self.log_driver {
                Driver::JsonFile => LogDriver::JsonFile,
                Driver::None => LogDriver::None,
            },
            ..LogConfig::default()
        };
        for option in &self.log_opt {
            match option {
                LogOption::MaxSize(bytes) => log.max_size_bytes = Some(*bytes),
                LogOption::MaxFile(count) => log.max_files = Some(*count),
            }
        }
        log
    }
}

#[cfg(test)]
mod tests;
