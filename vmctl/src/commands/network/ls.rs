//! `vmctl network ls`.

use clap::Args;
use network::{DEFAULT_NETWORK, Network};
use runtime::Engine;
use serde_json::json;

use super::{DRIVER, SCOPE, is_used, used};
use crate::commands::container::values::times;
use crate::commands::stores;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::{FilterError, Filters};
use crate::format::{self, Columns, Row, human};
use crate::output;

/// The filters that there are.
const FILTERS: [&str; 8] = ["driver", "id", "label", "label!", "name", "scope", "type", "dangling"];

const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    titles: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

/// List networks.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(super) struct LsArgs {
    /// Provide filter values: driver, id, label, name, scope, type, dangling, each =VALUE.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,

    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Do not truncate the output.
    #[arg(long)]
    no_trunc: bool,

    /// Only display network IDs.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(engine: &Engine, args: &LsArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    let mut networks = stores::networks(engine)?.list().map_err(ContainerError::from)?;
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    let mut kept = Vec::new();
    for network in networks {
        if fits(&network, &filters).map_err(ContainerError::from)? {
            kept.push(network);
        }
    }
    if let Some(dangling) = filters.truth("dangling").map_err(ContainerError::from)? {
        let used = used(engine)?;
        kept.retain(|network| is_used(network, &used) != dangling);
    }
    let text = if args.quiet && args.format.is_none() {
        kept.iter().map(|network| format!("{}\n", id(network, args.no_trunc))).collect()
    } else {
        let rows: Vec<_> = kept.iter().map(|network| row(network, args.no_trunc)).collect();
        COLUMNS.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?
    };
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

fn fits(network: &Network, filters: &Filters) -> Result<bool, FilterError> {
    filters.check_words("type", &["builtin", "custom"])?;
    let kind = if network.name == DEFAULT_NETWORK { "builtin" } else { "custom" };
    Ok(filters.fits_name(&network.name)
        && filters.fits("id", |id| network.id.starts_with(id))
        && filters.fits("driver", |driver| driver == DRIVER)
        && filters.fits("scope", |scope| scope == SCOPE)
        && filters.fits("type", |wanted| wanted == kind)
        && filters.fits_labels(&network.labels))
}

fn id(network: &Network, whole: bool) -> &str {
    if whole { &network.id } else { human::short_id(&network.id) }
}

fn row(network: &Network, whole: bool) -> Row {
    let mut row = json!({
        "ID": id(network, whole),
        "Name": network.name,
        "Driver": DRIVER,
        "Scope": SCOPE,
        "IPv4": "true",
        "IPv6": "true",
        "Internal": network.internal.to_string(),
        "CreatedAt": times::stamp(network.created),
    });
    format::add_labels(&mut row, network.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    row
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;

    pub(in crate::commands::network) fn network(name: &str) -> Network {
        Network {
            id: "ab".repeat(32),
            name: name.to_owned(),
            created: SystemTime::UNIX_EPOCH,
            bridge: "vmb-ab".to_owned(),
            subnet4: "10.0.0.0/24".parse().unwrap(),
            gateway4: "10.0.0.1".parse().unwrap(),
            subnet6: "fd00::/64".parse().unwrap(),
            gateway6: "fd00::1".parse().unwrap(),
            mtu: 1500,
            internal: false,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    #[test]
    fn table_is_dockers() {
        let rows = [row(&network("app"), false)];
        let expected = "\
            NETWORK ID     NAME      DRIVER    SCOPE\n\
            abababababab   app       bridge    local\n";
        assert_eq!(COLUMNS.render(&rows, None).unwrap(), expected);
        let text = COLUMNS.render(&rows, Some("{{.Labels}} {{.Label \"a\"}}")).unwrap();
        assert_eq!(text, "a=b b\n");
    }

    #[test]
    fn filters_choose_networks() {
        for (filter, expected) in [
            ("name=ap", true),
            ("name=x", false),
            ("id=abab", true),
            ("id=b", false),
            ("type=custom", true),
            ("type=builtin", false),
            ("driver=bridge", true),
            ("driver=overlay", false),
            ("scope=swarm", false),
            ("label=a=b", true),
            ("label!=a", false),
        ] {
            let filters = Filters::parse(&[filter.to_owned()], &FILTERS).unwrap();
            assert_eq!(fits(&network("app"), &filters), Ok(expected), "{filter}");
        }
        let filters = Filters::parse(&["type=odd".to_owned()], &FILTERS).unwrap();
        assert!(fits(&network("app"), &filters).is_err());
    }
}
