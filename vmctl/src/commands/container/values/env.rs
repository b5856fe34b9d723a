//! Environment variables and labels, from flags and from files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Problem;

/// What's wrong with a file of variables or of labels.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    /// It can't be read.
    #[error("{flag} {}: the file can't be read", path.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is malformed.
    #[error("{flag} {}: line {line}: {problem}", path.display())]
    Line {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What's wrong with it.
        problem: String,
    },
}

/// A variable that's set, or taken away if it has no value.
pub(crate) type Variable = (String, Option<String>);

/// Reads `-e NAME=VALUE`, or `-e NAME`, which is as on the host.
pub(crate) fn variable(text: &str) -> Result<Variable, Problem> {
    check_text(text)?;
    match text.split_once('=') {
        Some(("", _)) | None if text.is_empty() || text.starts_with('=') => {
            Err(format!("invalid environment variable: {text}"))
        }
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((text.to_owned(), std::env::var(text).ok())),
    }
}

/// Reads `--label NAME=VALUE` or `--label NAME`.
pub(crate) fn label(text: &str) -> Result<(String, String), Problem> {
    check_text(text)?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn check_text(text: &str) -> Result<(), Problem> {
    if text.contains('\0') { Err("must not have a zero byte in it".to_owned()) } else { Ok(()) }
}

/// Puts the variables of files and then those of flags into one list; a later one replaces an
/// earlier.
///
/// # Errors
/// A file can't be read, or has a malformed line.
pub(crate) fn variables(
    files: &[PathBuf],
    flags: &[Variable],
) -> Result<BTreeMap<String, Option<String>>, FileError> {
    let mut all = BTreeMap::new();
    for file in files {
        for entry in read(file, "--env-file")? {
            match entry {
                (name, Some(value)) => drop(all.insert(name, Some(value))),
                // A name alone is the host's variable, if there's one.
                (name, None) => {
                    if let Ok(value) = std::env::var(&name) {
                        all.insert(name, Some(value));
                    }
                }
            }
        }
    }
    all.extend(flags.iter().cloned());
    Ok(all)
}

/// The same for labels, whose values are empty where there's none.
///
/// # Errors
/// As [`variables`].
pub(crate) fn labels(
    files: &[PathBuf],
    flags: &[(String, String)],
) -> Result<BTreeMap<String, String>, FileError> {
    let mut all = BTreeMap::new();
    for file in files {
        let entries = read(file, "--label-file")?;
        all.extend(entries.into_iter().map(|(name, value)| (name, value.unwrap_or_default())));
    }
    all.extend(flags.iter().cloned());
    Ok(all)
}

fn read(path: &Path, flag: &'static str) -> Result<Vec<Variable>, FileError> {
    let failed = |source| FileError::Unreadable { flag, path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
    parse(&bytes).map_err(|(line, problem)| FileError::Line {
        flag,
        path: path.to_owned(),
        line,
        problem,
    })
}

/// Reads lines of `NAME=VALUE` or `NAME`. Space before a name, empty lines and those that begin
/// with `#` don't count; a value is all that follows the equals sign, quotes included.
fn parse(bytes: &[u8]) -> Result<Vec<Variable>, (usize, String)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut entries = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let failed = |problem: String| (at + 1, problem);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line =
            std::str::from_utf8(line).map_err(|_| failed("invalid UTF-8".to_owned()))?.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        check_text(line).map_err(failed)?;
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err(failed(format!("no variable name on line '{line}'")));
        }
        if name.contains(char::is_whitespace) {
            return Err(failed(format!("variable '{name}' contains whitespaces")));
        }
        entries.push((name.to_owned(), value));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Variable {
        (name.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn flags_set_variables_or_take_the_hosts() {
        assert_eq!(variable("A=1=2"), Ok(set("A", "1=2")));
        assert_eq!(variable("A="), Ok(set("A", "")));
        assert_eq!(variable("PATH").unwrap().1, std::env::var("PATH").ok());
        assert_eq!(variable("SURELY_NOT_SET"), Ok(("SURELY_NOT_SET".to_owned(), None)));
        for text in ["", "=", "=x"] {
            assert_eq!(variable(text), Err(format!("invalid environment variable: {text}")));
        }
        assert!(variable("A=\0").is_err());
    }

    #[test]
    fn file_has_a_variable_per_line() {
        let text = b"\xef\xbb\xbfA=1\n  B= two words \n\n# no\n#C=1\nD='q'\r\nE=a#b\nF=";
        let expected = [
            set("A", "1"),
            set("B", " two words "),
            set("D", "'q'"),
            set("E", "a#b"),
            set("F", ""),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse(b"NAME\n").unwrap(), [("NAME".to_owned(), None)]);
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn malformed_lines_are_told_with_their_number() {
        for (text, line, problem) in [
            (&b"A=1\n=x"[..], 2, "no variable name on line '=x'"),
            (b"A B=1", 1, "variable 'A B' contains whitespaces"),
            (b"A =1", 1, "variable 'A ' contains whitespaces"),
            (b"A=\xff", 1, "invalid UTF-8"),
            (b"A=\0", 1, "must not have a zero byte in it"),
        ] {
            assert_eq!(parse(text), Err((line, problem.to_owned())));
        }
    }

    #[test]
    fn later_ones_replace_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, "A=1\nB=1\nC=1\nPATH\nSURELY_NOT_SET\n").unwrap();
        fs::write(&two, "B=2\nC=2\n").unwrap();
        let all = variables(&[one.clone(), two], &[set("C", "3")]).unwrap();
        assert_eq!(all["A"].as_deref(), Some("1"));
        assert_eq!(all["B"].as_deref(), Some("2"));
        assert_eq!(all["C"].as_deref(), Some("3"));
        assert_eq!(all["PATH"], std::env::var("PATH").ok());
        assert!(!all.contains_key("SURELY_NOT_SET"));
        fs::write(&one, "a\nb=c").unwrap();
        let labels = labels(&[one], &[("d".to_owned(), String::new())]).unwrap();
        assert_eq!(
            labels.into_iter().map(|(k, v)| k + "=" + &v).collect::<Vec<_>>(),
            ["a=", "b=c", "d="]
        );
    }

    #[test]
    fn missing_file_is_named() {
        let error = variables(&[PathBuf::from("/nowhere/env")], &[]).unwrap_err();
        assert_eq!(error.to_string(), "--env-file /nowhere/env: the file can't be read");
    }

    #[test]
    fn labels_may_have_no_value_but_a_name() {
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("=b").unwrap_err(), "invalid label '=b': empty name");
    }
}
