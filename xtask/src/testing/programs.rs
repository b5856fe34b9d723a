//! Builds the test programs that run where guests can, and finds them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::SUITES_CRATE;
use crate::progress::step;
use crate::{dirs, guest, process};

/// The crate among whose unit tests some need root.
const ROOT_TESTS_CRATE: &str = "sys";

/// The crate whose unit tests go further where KVM can do all: on a host whose KVM lacks something,
/// they say so and pass.
const KVM_TESTS_CRATE: &str = "vmm";

/// A test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether its ignored tests are to be run, instead of the others.
    pub(super) only_ignored: bool,
}

/// Builds what the suites test, and the suites; returns these.
///
/// # Errors
///
/// Fails when one of them can't be built.
pub(super) fn build() -> Result<Vec<Program>> {
    guest::install()?;
    let messages = step("Building the suites", || {
        process::capture(
            Command::new("cargo")
                .args(["test", "--locked", "--no-run", "--message-format=json"])
                .args(["--package", SUITES_CRATE, "--package", ROOT_TESTS_CRATE])
                .args(["--package", KVM_TESTS_CRATE])
                .current_dir(dirs::workspace()),
        )
    })?;
    Ok(messages.lines().filter_map(program_of).collect())
}

/// Finds a program in one of Cargo's messages.
fn program_of(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = PathBuf::from(message["executable"].as_str()?);
    let name = message["target"]["name"].as_str()?.to_owned();
    let is = |kind: &str| {
        message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|it| it == kind))
    };
    if is("test") {
        return Some(Program { name, path, only_ignored: false });
    }
    let only_ignored = match name.as_str() {
        ROOT_TESTS_CRATE if is("lib") => true,
        KVM_TESTS_CRATE if is("lib") => false,
        _ => return None,
    };
    Some(Program { name, path, only_ignored })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let message = |kind: &str, name: &str, executable: &str| {
            program_of(&format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},
                "executable":{executable}}}"#
            ))
        };
        let program = |name: &str, only_ignored| {
            Some(Program { name: name.to_owned(), path: PathBuf::from("/t/x"), only_ignored })
        };
        assert_eq!(message("test", "boot", r#""/t/x""#), program("boot", false));
        assert_eq!(message("lib", "sys", r#""/t/x""#), program("sys", true));
        assert_eq!(message("lib", "vmm", r#""/t/x""#), program("vmm", false));
        assert_eq!(message("bin", "vmm", r#""/t/x""#), None);
        assert_eq!(message("lib", "integration_tests", r#""/t/x""#), None);
        assert_eq!(message("lib", "sys", "null"), None);
        assert_eq!(program_of("warning: not JSON"), None);
    }
}
