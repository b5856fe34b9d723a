//! `vmctl network`.

mod create;
mod ls;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use log::LevelFilter;
use network::{DEFAULT_NETWORK, Endpoint, Network, NetworkError};
use runtime::Engine;
use serde_json::{Map, Value, json};

use super::container::values::times;
use super::container::{engine, for_each};
use super::inspect::{Shown, show};
use super::{confirm, stores};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::{FilterError, Filters};
use crate::output;

/// The driver of all networks.
const DRIVER: &str = "bridge";

/// The scope of all networks.
const SCOPE: &str = "local";

/// The filters of `prune`.
const PRUNE_FILTERS: [&str; 3] = ["until", "label", "label!"];

/// Manage networks.
///
/// A network is named by its name, its identifier, or the beginning of that.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    Create(create::CreateArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    Inspect(InspectArgs),
    Prune(PruneArgs),
}

/// Remove one or more networks.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct RmArgs {
    /// Do not fail if a network does not exist.
    #[arg(long, short)]
    force: bool,

    /// The networks.
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Display detailed information on one or more networks.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct InspectArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,

    /// The networks.
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Remove all unused networks.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct PruneArgs {
    /// Do not prompt for confirmation.
    #[arg(long, short)]
    force: bool,

    /// Provide filter values: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE].
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs a command of `vmctl network`; returns the exit code.
pub(crate) fn run(args: &NetworkArgs, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    match &args.command {
        NetworkCommand::Create(args) => create::run(&engine, args),
        NetworkCommand::Ls(args) => ls::run(&engine, args),
        NetworkCommand::Rm(args) => rm(&engine, args),
        NetworkCommand::Inspect(args) => {
            show("network", &args.networks, args.format.as_deref(), |name| {
                network_value(&engine, name)
            })
        }
        NetworkCommand::Prune(args) => prune(&engine, args),
    }
}

/// Has `events` tell of a network.
fn note(engine: &Engine, action: &str, network: &Network) {
    let facts = [("name", network.name.clone()), ("type", "bridge".to_owned())];
    engine.emit("network", action, &network.id, facts);
}

fn rm(engine: &Engine, args: &RmArgs) -> Result<u8, CliError> {
    let networks = stores::networks(engine)?;
    for_each(&args.networks, |name| match networks.remove(name) {
        // With force it's as wanted.
        Err(NetworkError::Absent(_)) if args.force => Ok(()),
        removed => {
            note(engine, "destroy", &removed.map_err(ContainerError::from)?);
            output::print(&format!("{name}\n"))
        }
    })
}

fn prune(engine: &Engine, args: &PruneArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &PRUNE_FILTERS).map_err(ContainerError::from)?;
    let warning = "This will remove all custom networks not used by at least one container.";
    if !args.force && !confirm(warning)? {
        return Ok(api::exit::STOPPED);
    }
    output::print(&pruned_text(&remove_unused(engine, &filters)?))?;
    Ok(api::exit::STOPPED)
}

/// What a prune has removed.
fn pruned_text(removed: &[String]) -> String {
    if removed.is_empty() {
        return String::new();
    }
    format!("Deleted Networks:\n{}\n\n", removed.join("\n"))
}

/// Removes networks that no container is on, nor would be when it's started; returns their names.
pub(crate) fn remove_unused(
    engine: &Engine,
    filters: &Filters,
) -> Result<Vec<String>, ContainerError> {
    let until = match filters.get("until").last() {
        Some(text) => Some(times::moment(text).map_err(|problem| FilterError::BadValue {
            name: "until",
            value: text.clone(),
            problem,
        })?),
        None => None,
    };
    let used = used(engine)?;
    let networks = stores::networks(engine)?;
    let mut removed = Vec::new();
    for network in networks.list()? {
        let is_wanted = !is_used(&network, &used)
            && until.is_none_or(|until| network.created < until)
            && filters.fits_labels(&network.labels);
        if !is_wanted {
            continue;
        }
        match networks.remove(&network.id) {
            Ok(network) => {
                note(engine, "destroy", &network);
                removed.push(network.name);
            }
            // A container came, or another process was faster.
            Err(NetworkError::InUse { .. } | NetworkError::Absent(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// How containers name the networks that they're on.
fn used(engine: &Engine) -> Result<BTreeSet<String>, ContainerError> {
    Ok(stores::containers(engine)?.into_iter().flat_map(|state| state.summary.networks).collect())
}

/// Whether a network is to be kept: containers name it, or it's the default one.
fn is_used(network: &Network, used: &BTreeSet<String>) -> bool {
    let names_it = |name: &String| {
        *name == network.name || (name.len() >= 4 && network.id.starts_with(name.as_str()))
    };
    network.name == DEFAULT_NETWORK || used.iter().any(names_it)
}

/// What's known of a network, as JSON.
pub(crate) fn network_value(engine: &Engine, name: &str) -> Shown {
    let networks = stores::networks(engine)?;
    match networks.get(name) {
        Ok(network) => {
            let endpoints = networks.endpoints(&network).map_err(ContainerError::from)?;
            Ok(Some(value(&network, &endpoints)))
        }
        Err(NetworkError::Absent(_)) => Ok(None),
        Err(error) => Err(ContainerError::from(error).into()),
    }
}

/// Docker's shape.
fn value(network: &Network, endpoints: &[Endpoint]) -> Value {
    let containers: Map<String, Value> = endpoints.iter().map(container).collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": times::rfc3339(network.created),
        "Scope": SCOPE,
        "Driver": DRIVER,
        "EnableIPv4": true,
        "EnableIPv6": true,
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": [
                {"Subnet": network.subnet4.to_string(), "Gateway": network.gateway4.to_string()},
                {"Subnet": network.subnet6.to_string(), "Gateway": network.gateway6.to_string()},
            ],
        },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "Containers": containers,
        "Options": {
            "com.docker.network.bridge.name": network.bridge,
            "com.docker.network.driver.mtu": network.mtu.to_string(),
        },
        "Labels": network.labels,
    })
}

fn container(endpoint: &Endpoint) -> (String, Value) {
    let value = json!({
        "Name": endpoint.names.first().cloned().unwrap_or_default(),
        "EndpointID": format!("{}-{}", endpoint.network_id, endpoint.tap),
        "MacAddress": endpoint.mac_text(),
        "IPv4Address": format!("{}/{}", endpoint.ipv4, endpoint.prefix4),
        "IPv6Address": format!("{}/{}", endpoint.ipv6, endpoint.prefix6),
    });
    (endpoint.container.clone(), value)
}

#[cfg(test)]
mod tests {
    use super::ls::tests::network;
    use super::*;

    #[test]
    fn network_is_shown_in_dockers_shape() {
        let endpoint = Endpoint {
            container: "c".repeat(64),
            network: "app".to_owned(),
            network_id: "ab".repeat(32),
            tap: "vt0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            ipv4: "10.0.0.2".parse().unwrap(),
            prefix4: 24,
            ipv6: "fd00::2".parse().unwrap(),
            prefix6: 64,
            gateways: Vec::new(),
            host_addresses: Vec::new(),
            mtu: 1500,
            names: vec!["db".to_owned()],
            ports: Vec::new(),
        };
        let value = value(&network("app"), &[endpoint]);
        assert_eq!(value["IPAM"]["Config"][0]["Subnet"], "10.0.0.0/24");
        let container = &value["Containers"]["c".repeat(64)];
        assert_eq!(container["Name"], "db");
        assert_eq!(container["IPv4Address"], "10.0.0.2/24");
        assert_eq!(container["MacAddress"], "02:00:00:00:00:01");
    }

    #[test]
    fn networks_that_containers_name_are_kept_by_a_prune() {
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert!(is_used(&network("app"), &used(&["app"])));
        assert!(is_used(&network("app"), &used(&["abababababab"])));
        assert!(!is_used(&network("app"), &used(&["other", "ab"])));
        assert!(is_used(&network("bridge"), &used(&[])));
    }
}
