//! Variables of a Dockerfile: `ENV`, `ARG`, and what's set without either.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Config;
use super::error::{BuildError, Place};
use super::parse::{Instruction, Step};
use super::words;
use crate::Platform;

/// Arguments that commands get without an `ARG`, and that neither the cache nor the history knows:
/// proxies differ from host to host.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What's the same for all stages.
#[derive(Debug)]
pub(super) struct Globals {
    pub(super) escape: char,
    /// `--build-arg`.
    build_args: BTreeMap<String, String>,
    /// Of `ARG` before the first `FROM`, and the platforms'.
    values: BTreeMap<String, String>,
    /// Build arguments that nothing has asked for yet.
    unused: BTreeSet<String>,
}

impl Globals {
    /// Takes the `ARG` instructions before the first `FROM`.
    ///
    /// # Errors
    /// A default is malformed.
    pub(super) fn new(
        steps: &[Step],
        escape: char,
        build_args: &BTreeMap<String, String>,
        target: &Platform,
    ) -> Result<Self, BuildError> {
        let mut globals = Self {
            escape,
            build_args: build_args.clone(),
            values: platforms(target),
            unused: build_args.keys().cloned().collect(),
        };
        for step in steps {
            let Instruction::Arg(arguments) = &step.instruction else { continue };
            for (name, default) in arguments {
                let default = match default {
                    Some(default) => Some(globals.expand(default, &step.place)?),
                    None => None,
                };
                if let Some(value) = globals.build_arg(name).or(default) {
                    globals.values.insert(name.clone(), value);
                }
            }
        }
        Ok(globals)
    }

    /// Expands a word of a `FROM`.
    ///
    /// # Errors
    /// It's malformed.
    pub(super) fn expand(&self, word: &str, place: &Place) -> Result<String, BuildError> {
        let lookup = |name: &str| self.values.get(name).cloned();
        words::expand(word, self.escape, &lookup).map_err(|problem| place.wrong(problem))
    }

    /// The value of an argument by the command line.
    fn build_arg(&mut self, name: &str) -> Option<String> {
        self.unused.remove(name);
        self.build_args.get(name).cloned()
    }

    /// The value of an argument that a stage declares.
    pub(super) fn declare(&mut self, name: &str, default: Option<String>) -> Option<String> {
        self.build_arg(name).or(default).or_else(|| self.values.get(name).cloned())
    }

    /// Arguments that commands get undeclared.
    pub(super) fn predefined(&self) -> impl Iterator<Item = (&str, &str)> {
        let given = self.build_args.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        given.filter(|(name, _)| PREDEFINED.contains(name))
    }

    /// Build arguments that nothing asked for.
    pub(super) fn unused(&self) -> Vec<&str> {
        let unused = self.unused.iter().map(String::as_str);
        unused.filter(|name| !PREDEFINED.contains(name)).collect()
    }
}

fn platforms(target: &Platform) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", &Platform::host())] {
        let mut set =
            |suffix: &str, value: String| values.insert(format!("{prefix}{suffix}"), value);
        set("PLATFORM", platform.to_string());
        set("OS", platform.os.clone());
        set("ARCH", platform.architecture.clone());
        set("VARIANT", platform.variant.clone().unwrap_or_default());
    }
    values
}

/// Expands a word of a stage: its environment comes before its arguments.
///
/// # Errors
/// It's malformed.
pub(super) fn expand(
    word: &str,
    escape: char,
    config: &Config,
    args: &BTreeMap<String, String>,
) -> Result<String, String> {
    words::expand(word, escape, &|name| value(name, config, args))
}

/// Expands a here-document's variables.
///
/// # Errors
/// It's malformed.
pub(super) fn expand_document(
    text: &str,
    escape: char,
    config: &Config,
    args: &BTreeMap<String, String>,
) -> Result<String, String> {
    words::expand_document(text, escape, &|name| value(name, config, args))
}

fn value(name: &str, config: &Config, args: &BTreeMap<String, String>) -> Option<String> {
    config.variable(name).or_else(|| args.get(name).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::parse;

    fn globals(text: &str, build_args: &[(&str, &str)]) -> Result<Globals, BuildError> {
        let file = parse::parse("Dockerfile", &format!("{text}\nFROM scratch\n")).unwrap();
        let build_args =
            build_args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Globals::new(&file.global_args, file.escape, &build_args, &Platform::host())
    }

    #[test]
    fn arguments_come_from_the_command_line_then_from_defaults_then_from_above() {
        let args = [("A", "given"), ("STAGE", "x"), ("http_proxy", "p"), ("TYPO", "1")];
        let mut globals = globals("ARG A=1 B=b${A}\nARG C", &args).unwrap();
        let place = Place { file: String::new(), line: 1, text: String::new() };
        assert_eq!(globals.expand("$A-$B-$C", &place).unwrap(), "given-bgiven-");
        assert_eq!(globals.declare("B", None).as_deref(), Some("bgiven"));
        assert_eq!(globals.declare("B", Some("own".to_owned())).as_deref(), Some("own"));
        assert_eq!(globals.declare("STAGE", Some("own".to_owned())).as_deref(), Some("x"));
        assert_eq!(globals.declare("NONE", None), None);
        assert_eq!(globals.declare("TARGETOS", None).as_deref(), Some("linux"));
        assert_eq!(globals.predefined().collect::<Vec<_>>(), [("http_proxy", "p")]);
        assert_eq!(globals.unused(), ["TYPO"]);
    }

    #[test]
    fn default_that_is_malformed_is_refused_with_its_line() {
        let error = globals("ARG A=${B", &[]).unwrap_err().to_string();
        assert!(error.starts_with("Dockerfile:1: `ARG A=${B`"), "{error}");
    }
}
