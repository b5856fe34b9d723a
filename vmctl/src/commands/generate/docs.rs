//! `docs/cli.md`, which is written by a test: run with `VMCTL_WRITE_DOCS` set, it writes the file,
//! otherwise it compares.

use std::fmt::Write as _;
use std::{env, fs};

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::Cli;

const HEAD: &str = "# The command line

Generated from `vmctl --help`: `VMCTL_WRITE_DOCS=1 cargo test -p vmctl docs` writes this file anew.

Exit codes: 0 for success and for a VM that powered off or was reset by its guest, 1 for a failure, 2
for a mistake in flags or configuration, 3 for a guest whose kernel panicked.
";

/// Writes a command and those below it.
fn section(command: &Command, path: &str, text: &mut String) -> std::fmt::Result {
    writeln!(text, "\n## `{path}`\n")?;
    let about = command.get_long_about().or(command.get_about());
    writeln!(text, "{}", about.map(ToString::to_string).unwrap_or_default())?;
    let usage = command.clone().bin_name(path).render_usage().to_string();
    writeln!(text, "\n    {}", usage.trim_start_matches("Usage: ").replace('\n', "\n    "))?;
    let aliases: Vec<_> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        writeln!(text, "\nAlso called `{}`.", aliases.join("`, `"))?;
    }
    let shown = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set();
    let args: Vec<_> = command.get_arguments().filter(shown).collect();
    if !args.is_empty() {
        writeln!(text)?;
    }
    for arg in args {
        row(arg, text)?;
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        if below.get_name() != "help" {
            section(below, &format!("{path} {}", below.get_name()), text)?;
        }
    }
    Ok(())
}

/// Writes an argument as an item of a list.
fn row(arg: &Arg, text: &mut String) -> std::fmt::Result {
    let value = || {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let name = match (arg.get_short(), arg.get_long()) {
        (_, None) => format!("<{}>", value()),
        (short, Some(long)) => {
            let short = short.map(|short| format!("-{short}, ")).unwrap_or_default();
            let value = if takes_value { format!(" {}", value()) } else { String::new() };
            format!("{short}--{long}{value}")
        }
    };
    let help = arg.get_long_help().or(arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    write!(text, "- `{name}`: {}", help.trim().replace('\n', "\n  "))?;
    let defaults: Vec<_> = arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
    if takes_value && !defaults.is_empty() {
        write!(text, " Unless given: `{}`.", defaults.join(" "))?;
    }
    let values = arg.get_possible_values();
    if takes_value && values.len() > 1 {
        let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        write!(text, " One of {}.", names.join(", "))?;
    }
    writeln!(text)
}

/// All of the file.
fn document() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = HEAD.to_owned();
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        section(below, &format!("vmctl {}", below.get_name()), &mut text).unwrap();
    }
    text
}

#[test]
fn docs_of_the_command_line_are_those_of_the_flags() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let text = document();
    if env::var_os("VMCTL_WRITE_DOCS").is_some() {
        fs::write(path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(path).is_ok_and(|written| written == text),
        "docs/cli.md is stale: VMCTL_WRITE_DOCS=1 cargo test -p vmctl docs"
    );
}

/// clap makes a line break of `{n}`, which nobody means who writes help.
#[test]
fn no_help_breaks_a_line_where_none_was_written() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut directories = vec![std::path::PathBuf::from(source)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path.extension() != Some("rs".as_ref()) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let mut docs = text.lines().filter(|line| line.trim_start().starts_with("///"));
            let place = path.display();
            // This test's own comment is about it.
            if !path.ends_with("generate/docs.rs") {
                assert_eq!(docs.find(|line| line.contains("{n}")), None, "{place}");
            }
        }
    }
}
