//! The script that runs the command in the lab: its environment, its directory, itself.

use std::env;

use anyhow::{Context, Result};

use super::{EXIT_LAB_FAILED, RESULTS_DIR, Spec};
use crate::dirs;
use crate::process::shell_quote;

/// Variables that are passed on from the caller's environment, besides those by [`ENV_PREFIXES`].
const ENV_NAMES: &[&str] = &[
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_COLOR",
    "COLORTERM",
    "HOME",
    "LANG",
    "LOGNAME",
    "NO_COLOR",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SHELL",
    "TERM",
    "TZ",
    "USER",
];
const ENV_PREFIXES: &[&str] = &["LC_", "VMCTL_", "VMM_"];

/// This program in the run's directory.
pub(super) const HELPER: &str = "xtask";

/// Writes the shell script that runs the command with its environment and directory.
///
/// # Errors
///
/// Fails when there is no current directory.
pub(super) fn command_script(spec: &Spec) -> Result<String> {
    let cwd = match &spec.cwd {
        Some(cwd) => cwd.clone(),
        None => env::current_dir().context("cannot find the current directory")?,
    };
    let mut script = format!("\"$LAB_DIR/{HELPER}\" lab-injections || exit {EXIT_LAB_FAILED}\n");
    for (name, value) in passed_env().chain(spec.env.iter().cloned()) {
        script += &format!("export {name}={}\n", shell_quote(&value));
    }
    if spec.results.is_some() {
        script += &format!("export LAB_RESULTS={RESULTS_DIR}\n");
    }
    let words: Vec<String> = spec.command.iter().map(|word| shell_quote(word)).collect();
    script += "export TMPDIR=/run/tmp\n";
    script += &format!("export PATH={}\n", shell_quote(&search_path()));
    script += &format!("cd {} || exit\n", shell_quote(&cwd.to_string_lossy()));
    script += &format!("exec {}\n", words.join(" "));
    Ok(script)
}

fn passed_env() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let wanted = ENV_NAMES.contains(&name.as_str())
            || ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        (wanted && is_variable_name(&name)).then_some((name, value))
    })
}

/// Puts our own programs before the caller's, and the system's behind them.
fn search_path() -> String {
    let target = dirs::target();
    let caller = env::var("PATH").unwrap_or_default();
    format!(
        "{}:{}:{caller}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        target.join("release").display(),
        target.join("debug").display()
    )
}

/// Parses `NAME=VALUE`, or `NAME` for a variable of our own environment.
pub(super) fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            (text, env::var(text).map_err(|_| format!("no variable {text} to pass on is set"))?)
        }
    };
    if !is_variable_name(name) {
        return Err(format!("{name:?} can't be a variable's name"));
    }
    Ok((name.to_owned(), value))
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_quotes_what_it_runs() {
        let mut spec = Spec::new(vec!["echo".to_owned(), "it's $HOME".to_owned()]);
        spec.cwd = Some("/a b".into());
        spec.env = vec![("X".to_owned(), "1;2".to_owned())];
        let script = command_script(&spec).unwrap();
        assert!(script.contains("export X='1;2'\n"), "{script}");
        assert!(script.ends_with("cd '/a b' || exit\nexec 'echo' 'it'\\''s $HOME'\n"), "{script}");
    }

    #[test]
    fn variables_are_given_with_a_value_or_taken_from_the_environment() {
        assert_eq!(parse_variable("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(parse_variable("CARGO_MANIFEST_DIR").unwrap().1, env!("CARGO_MANIFEST_DIR"));
        for wrong in ["=x", "1A=x", "A B=x", "NOT_SET_ANYWHERE"] {
            assert!(parse_variable(wrong).is_err(), "{wrong}");
        }
    }
}
