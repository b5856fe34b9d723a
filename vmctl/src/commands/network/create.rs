//! `vmctl network create`.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use network::NetworkSpec;
use runtime::Engine;

use super::DRIVER;
use crate::commands::container::values::{env, names};
use crate::commands::stores;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Create a network.
///
/// It has addresses of IPv4 and of IPv6. Containers on it reach each other by name.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(super) struct CreateArgs {
    /// Driver to manage the network: there's only this one.
    #[arg(long, short, value_name = "DRIVER", default_value = DRIVER, value_parser = [DRIVER])]
    driver: String,

    /// IPv4 or IPv6 gateway for the subnet.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,

    /// Restrict external access to the network.
    #[arg(long)]
    internal: bool,

    /// Set metadata on a network.
    #[arg(long, value_name = "LABEL", value_parser = env::label)]
    label: Vec<(String, String)>,

    /// Subnet in CIDR format that represents a network segment: one of IPv4 and one of IPv6 at
    /// most; chosen unless given.
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<IpNet>,

    /// The name.
    #[arg(value_name = "NETWORK", value_parser = names::name)]
    name: String,
}

pub(super) fn run(engine: &Engine, args: &CreateArgs) -> Result<u8, CliError> {
    let spec = NetworkSpec {
        name: args.name.clone(),
        subnets: args.subnet.clone(),
        gateways: args.gateway.clone(),
        internal: args.internal,
        labels: args.label.iter().cloned().collect(),
    };
    let networks = stores::networks(engine)?;
    let network = networks.create(&spec).map_err(ContainerError::from)?;
    super::note(engine, "create", &network);
    output::print(&format!("{}\n", network.id))?;
    Ok(api::exit::STOPPED)
}
