//! `vmctl version`.

use clap::Args;
use serde_json::{Value, json};

use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format;
use crate::output;

/// Show the version information.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct VersionArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs `vmctl version`.
pub(crate) fn version(args: &VersionArgs) -> Result<u8, CliError> {
    output::print(&text(args.format.as_deref())?)?;
    Ok(api::exit::STOPPED)
}

fn text(format: Option<&str>) -> Result<String, ContainerError> {
    let value = value();
    match format {
        None => Ok(in_words(&value)),
        Some("json") => Ok(format!("{value}\n")),
        Some(template) => Ok(format::render_each(&[value], template)?),
    }
}

/// Docker's client and daemon are one program here, so both are of one version.
fn value() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, super::info::go_architecture());
    let system = rustix::system::uname();
    let kernel = system.release().to_string_lossy();
    json!({
        "Client": {"Version": version, "Os": os, "Arch": arch},
        "Server": {"Version": version, "Os": os, "Arch": arch, "KernelVersion": kernel},
    })
}

fn in_words(value: &Value) -> String {
    let text = |path| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let platform = format!("{}/{}", text("/Client/Os"), text("/Client/Arch"));
    format!(
        "Client: vmctl\n Version:           {version}\n OS/Arch:           {platform}\n\n\
         Server: vmctl, without a daemon\n Version:           {version}\n \
         OS/Arch:           {platform}\n Host kernel:       {kernel}\n",
        version = text("/Client/Version"),
        kernel = text("/Server/KernelVersion"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_said_in_words_as_json_and_by_template() {
        let version = env!("CARGO_PKG_VERSION");
        let words = text(None).unwrap();
        assert!(words.contains(&format!("\n Version:           {version}\n OS/Arch: ")), "{words}");
        let json: Value = serde_json::from_str(&text(Some("json")).unwrap()).unwrap();
        assert_eq!(json["Server"]["Version"], version);
        let template = "{{.Client.Version}} {{.Server.Os}}";
        assert_eq!(text(Some(template)).unwrap(), format!("{version} linux\n"));
        assert!(text(Some("{{.Bogus}}")).is_err());
    }
}
