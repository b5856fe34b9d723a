//! A container in the shape that `docker inspect` shows it in.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::config::{HealthConfig, LogDriver, MountKind, Protocol, RestartPolicy};
use crate::paths::ContainerPaths;
use crate::record::{ContainerRecord, Endpoint, Health, MountPoint, State, Status};
use crate::resolve;
use crate::signals::signal_name;

/// What Go writes for a time that wasn't.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What's shown of a container. `kernel` is the guest's.
pub(crate) fn container(
    record: &ContainerRecord,
    state: &State,
    paths: &ContainerPaths,
    kernel: Option<&Path>,
) -> Value {
    let resolved = &record.resolved;
    let mut words = resolved.entrypoint.iter().chain(&resolved.command);
    json!({
        "Id": record.id,
        "Created": time(Some(record.created)),
        "Path": words.next().cloned().unwrap_or_default(),
        "Args": words.collect::<Vec<_>>(),
        "State": life(state),
        "Image": resolved.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": log_path(record, paths),
        "Name": format!("/{}", record.name),
        "RestartCount": state.restart_count,
        "Driver": "erofs",
        "Platform": resolved.platform.split('/').next().unwrap_or("linux"),
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(record),
        "GraphDriver": {
            "Name": "erofs",
            "Data": { "UpperDisk": paths.upper(), "ManifestDigest": resolved.manifest_digest },
        },
        "Mounts": record.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config(record),
        "NetworkSettings": network_settings(record, state),
        "Vm": {
            "Kernel": record.config.kernel.as_deref().or(kernel),
            "SupervisorPid": state.supervisor_pid,
            "Warm": state.warm,
            "ApiSocket": paths.api_socket(),
            "ConsoleLog": paths.console(),
        },
    })
}

fn time(time: Option<SystemTime>) -> String {
    time.map_or(NEVER.to_owned(), |time| humantime::format_rfc3339_nanos(time).to_string())
}

fn log_path(record: &ContainerRecord, paths: &ContainerPaths) -> String {
    match record.config.log.driver {
        LogDriver::JsonFile => paths.log().display().to_string(),
        LogDriver::None => String::new(),
    }
}

fn life(state: &State) -> Value {
    let status = state.status;
    let mut life = json!({
        "Status": status.as_str(),
        // Docker's: a paused or restarting one runs, too.
        "Running": status.is_active(),
        "Paused": status == Status::Paused,
        "Restarting": status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": status == Status::Dead,
        "Pid": state.vmm.as_ref().filter(|_| status.is_active()).map_or(0, |vmm| vmm.pid),
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started),
        "FinishedAt": time(state.finished),
    });
    if let (Some(health), Some(fields)) = (&state.health, life.as_object_mut()) {
        fields.insert("Health".to_owned(), health_log(health));
    }
    life
}

fn health_log(health: &Health) -> Value {
    let log = health.log.iter().map(|result| {
        json!({
            "Start": time(Some(result.start)),
            "End": time(Some(result.end)),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.status.as_str(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}

fn config(record: &ContainerRecord) -> Value {
    let (asked, resolved) = (&record.config, &record.resolved);
    let set = |names: &[String]| {
        names.iter().map(|name| (name.clone(), json!({}))).collect::<Map<_, _>>()
    };
    let list = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let mut config = json!({
        "Hostname": resolved.hostname,
        "Domainname": asked.domainname.as_deref().unwrap_or_default(),
        "User": resolved.user,
        "AttachStdin": asked.stdin_once,
        "AttachStdout": asked.stdin_once,
        "AttachStderr": asked.stdin_once,
        "ExposedPorts": set(&resolved.exposed),
        "Tty": asked.tty,
        "OpenStdin": asked.open_stdin,
        "StdinOnce": asked.stdin_once,
        "Env": resolved.env,
        "Cmd": list(&resolved.command),
        "Image": asked.image,
        "Volumes": set(&resolved.volumes),
        "WorkingDir": resolved.working_dir,
        "Entrypoint": list(&resolved.entrypoint),
        "Labels": resolved.labels,
        "StopSignal": signal_name(resolved.stop_signal),
        "StopTimeout": asked.stop_timeout_s,
    });
    if let (Some(health), Some(fields)) = (&resolved.health, config.as_object_mut()) {
        fields.insert("Healthcheck".to_owned(), healthcheck(health));
    }
    config
}

fn healthcheck(health: &HealthConfig) -> Value {
    json!({
        "Test": health.test,
        "Interval": health.interval_ns.unwrap_or_default(),
        "Timeout": health.timeout_ns.unwrap_or_default(),
        "StartPeriod": health.start_period_ns.unwrap_or_default(),
        "StartInterval": health.start_interval_ns.unwrap_or_default(),
        "Retries": health.retries.unwrap_or_default(),
    })
}

fn host_config(record: &ContainerRecord) -> Value {
    let config = &record.config;
    let binds = record.mounts.iter().filter_map(|mount| {
        let source = mount.name.clone().filter(|_| !mount.anonymous).or_else(|| {
            let is_bind = mount.kind == MountKind::Bind;
            mount.source.as_ref().filter(|_| is_bind).map(|path| path.display().to_string())
        })?;
        let mode = if mount.read_only { ":ro" } else { "" };
        Some(format!("{source}:{}{mode}", mount.target))
    });
    let hosts = config.extra_hosts.iter().map(|host| match host.address {
        Some(address) => format!("{}:{address}", host.name),
        None => format!("{}:host-gateway", host.name),
    });
    let ulimits = config
        .ulimits
        .iter()
        .map(|limit| json!({ "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard }));
    let tmpfs = record.mounts.iter().filter(|mount| mount.kind == MountKind::Tmpfs);
    json!({
        "Binds": binds.collect::<Vec<_>>(),
        "NetworkMode": network_mode(record),
        "PortBindings": port_bindings(record),
        "RestartPolicy": restart_policy(config.restart),
        "AutoRemove": config.auto_remove,
        "LogConfig": log_config(record),
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "Dns": config.dns,
        "DnsOptions": config.dns_options,
        "DnsSearch": config.dns_search,
        "ExtraHosts": hosts.collect::<Vec<_>>(),
        "GroupAdd": config.group_add,
        "Privileged": config.privileged,
        "PublishAllPorts": config.publish_all,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": config.security_opt,
        "Sysctls": config.sysctls,
        "ShmSize": config.shm_size_bytes.unwrap_or(64 << 20),
        "Runtime": "vmctl",
        "Memory": config.memory_bytes.unwrap_or_default(),
        "NanoCpus": config.nano_cpus.unwrap_or_default(),
        "PidsLimit": config.pids_limit,
        "Ulimits": ulimits.collect::<Vec<_>>(),
        "Init": config.init,
        "Tmpfs": tmpfs.map(|mount| (mount.target.clone(), json!(""))).collect::<Map<_, _>>(),
        "Annotations": config.annotations,
    })
}

fn network_mode(record: &ContainerRecord) -> String {
    let networks = resolve::networks(&record.config);
    networks.first().map_or("none".to_owned(), |network| network.network.clone())
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
    };
    json!({ "Name": name, "MaximumRetryCount": retries })
}

fn log_config(record: &ContainerRecord) -> Value {
    let log = &record.config.log;
    let name = match log.driver {
        LogDriver::JsonFile => "json-file",
        LogDriver::None => "none",
    };
    let mut options = Map::new();
    if let Some(bytes) = log.max_size_bytes {
        options.insert("max-size".to_owned(), json!(bytes.to_string()));
    }
    if let Some(files) = log.max_files {
        options.insert("max-file".to_owned(), json!(files.to_string()));
    }
    json!({ "Type": name, "Config": options })
}

fn port_key(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

fn binding(address: Option<IpAddr>, port: Option<u16>) -> Value {
    json!({
        "HostIp": address.map(|address| address.to_string()).unwrap_or_default(),
        "HostPort": port.map(|port| port.to_string()).unwrap_or_default(),
    })
}

/// Puts a binding to those of its port. A port that's only exposed has none: Docker's `null`.
fn add_binding(ports: &mut Map<String, Value>, key: String, binding: Option<Value>) {
    let place = ports.entry(key).or_insert(Value::Null);
    match (place.as_array_mut(), binding) {
        (Some(bindings), Some(binding)) => bindings.push(binding),
        (None, Some(binding)) => *place = json!([binding]),
        (_, None) => {}
    }
}

fn port_bindings(record: &ContainerRecord) -> Map<String, Value> {
    let mut ports = Map::new();
    for port in &record.config.ports {
        let key = port_key(port.container_port, port.protocol);
        add_binding(&mut ports, key, Some(binding(port.host_ip, port.host_port)));
    }
    ports
}

fn mount(mount: &MountPoint) -> Value {
    let (kind, mode) = match mount.kind {
        MountKind::Bind => ("bind", ""),
        MountKind::Volume => ("volume", "z"),
        MountKind::Tmpfs => ("tmpfs", ""),
    };
    let mut shown = json!({
        "Type": kind,
        "Source": mount.source.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        "Destination": mount.target,
        "Mode": mode,
        "RW": !mount.read_only,
        "Propagation": if mount.kind == MountKind::Bind { "rprivate" } else { "" },
    });
    if let (Some(name), Some(fields)) = (&mount.name, shown.as_object_mut()) {
        fields.insert("Name".to_owned(), json!(name));
        fields.insert("Driver".to_owned(), json!("local"));
    }
    shown
}

fn network_settings(record: &ContainerRecord, state: &State) -> Value {
    let mut ports = Map::new();
    if state.status.is_active() {
        for port in &state.summary.ports {
            let key = port_key(port.container_port, port.protocol);
            let bound = port.host.map(|(address, number)| binding(Some(address), Some(number)));
            add_binding(&mut ports, key, bound);
        }
    }
    let asked = resolve::networks(&record.config);
    let networks: Map<_, _> = asked
        .iter()
        .map(|network| {
            let endpoint = state.endpoints.iter().find(|it| it.network == network.network);
            let aliases = &network.aliases;
            let shown = endpoint_value(endpoint.unwrap_or(&Endpoint::default()), aliases);
            (network.network.clone(), shown)
        })
        .collect();
    // Docker repeats the default network's at the top.
    let first = state.endpoints.first().cloned().unwrap_or_default();
    let (ipv4, ipv6) = addresses(&first);
    json!({
        "Ports": ports,
        "IPAddress": text(ipv4),
        "IPPrefixLen": ipv4.map_or(0, |(_, length)| length),
        "Gateway": gateway(&first, IpAddr::is_ipv4),
        "GlobalIPv6Address": text(ipv6),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |(_, length)| length),
        "IPv6Gateway": gateway(&first, IpAddr::is_ipv6),
        "MacAddress": first.mac,
        "Networks": networks,
    })
}

fn endpoint_value(endpoint: &Endpoint, aliases: &[String]) -> Value {
    let (ipv4, ipv6) = addresses(endpoint);
    json!({
        "NetworkID": endpoint.network_id,
        "Aliases": if endpoint.aliases.is_empty() { aliases } else { &endpoint.aliases },
        "IPAddress": text(ipv4),
        "IPPrefixLen": ipv4.map_or(0, |(_, length)| length),
        "Gateway": gateway(endpoint, IpAddr::is_ipv4),
        "GlobalIPv6Address": text(ipv6),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |(_, length)| length),
        "IPv6Gateway": gateway(endpoint, IpAddr::is_ipv6),
        "MacAddress": endpoint.mac,
    })
}

type Address = Option<(IpAddr, u8)>;

fn addresses(endpoint: &Endpoint) -> (Address, Address) {
    let find = |is: fn(&IpAddr) -> bool| {
        endpoint.addresses.iter().copied().find(|(address, _)| is(address))
    };
    (find(IpAddr::is_ipv4), find(IpAddr::is_ipv6))
}

fn text(address: Address) -> String {
    address.map(|(address, _)| address.to_string()).unwrap_or_default()
}

fn gateway(endpoint: &Endpoint, is: fn(&IpAddr) -> bool) -> String {
    let found = endpoint.gateways.iter().find(|address| is(address));
    found.map(ToString::to_string).unwrap_or_default()
}
