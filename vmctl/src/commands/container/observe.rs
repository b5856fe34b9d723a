//! `vmctl top|port|diff`.

use clap::Args;
use runtime::{ChangeKind, Engine, Protocol, PublishedPort};

use super::values::ports;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format;
use crate::output;

/// Display the running processes of a container.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct TopArgs {
    /// The container.
    container: String,
}

/// List port mappings or a specific mapping for the container.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PortArgs {
    /// The container.
    container: String,

    /// The container's port, with /tcp or /udp.
    #[arg(value_name = "PRIVATE_PORT[/PROTO]", value_parser = ports::container_port)]
    port: Option<(u16, Protocol)>,
}

/// Inspect changes to files or directories on a container's filesystem.
///
/// A line each: A for what was added, C for what was changed, D for what was deleted.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct DiffArgs {
    /// The container.
    container: String,
}

pub(super) fn top(engine: &Engine, args: &TopArgs) -> Result<u8, CliError> {
    let processes = engine.top(&args.container).map_err(ContainerError::from)?;
    output::print(&format::align(&processes.titles, &processes.rows))?;
    Ok(api::exit::STOPPED)
}

pub(super) fn port(engine: &Engine, args: &PortArgs) -> Result<u8, CliError> {
    let mut published = engine.ports(&args.container).map_err(ContainerError::from)?;
    published.retain(|port| port.host.is_some());
    published.sort();
    let Some((number, protocol)) = args.port else {
        let lines = published.iter().filter_map(|port| {
            Some(format!("{}/{} -> {}\n", port.container_port, port.protocol, host(port)?))
        });
        output::print(&lines.collect::<String>())?;
        return Ok(api::exit::STOPPED);
    };
    published.retain(|port| port.container_port == number && port.protocol == protocol);
    if published.is_empty() {
        let (port, name) = (format!("{number}/{protocol}"), args.container.clone());
        return Err(ContainerError::NotPublished { port, name }.into());
    }
    let lines = published.iter().filter_map(|port| Some(format!("{}\n", host(port)?)));
    output::print(&lines.collect::<String>())?;
    Ok(api::exit::STOPPED)
}

/// Where a port is published.
fn host(port: &PublishedPort) -> Option<String> {
    port.host.map(|(address, number)| std::net::SocketAddr::new(address, number).to_string())
}

pub(super) fn diff(engine: &Engine, args: &DiffArgs) -> Result<u8, CliError> {
    let changes = engine.diff(&args.container).map_err(ContainerError::from)?;
    let lines = changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        format!("{kind} {}\n", format::one_line(&change.path))
    });
    output::print(&lines.collect::<String>())?;
    Ok(api::exit::STOPPED)
}
