//! Runs other programs and turns what goes wrong into errors that say what was run.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end, with its output hidden unless it fails.
///
/// # Errors
///
/// Fails when the program is missing, can't be started or exits with another code than 0; the
/// error carries the end of what the program printed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    capture(command).map(drop)
}

/// Runs a command and returns what it printed on its standard output.
///
/// # Errors
///
/// See [`run`]; also fails when the output isn't UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| spawn_error(command, error))?;
    if !output.status.success() {
        bail!("`{}` failed ({}){}", line(command), output.status, tail(&output));
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that isn't UTF-8", line(command)))
}

/// Runs a command with its output shown as it comes.
///
/// # Errors
///
/// Fails when the program is missing, can't be started or exits with another code than 0.
pub(crate) fn run_shown(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).status().map_err(|error| spawn_error(command, error))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Explains why a program couldn't be started.
pub(crate) fn spawn_error(command: &Command, error: io::Error) -> anyhow::Error {
    let program = command.get_program().display().to_string();
    anyhow::Error::new(error).context(format!("cannot run `{program}`"))
}

/// Returns a command as one line of text, for messages only.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn tail(output: &Output) -> String {
    const LINES: usize = 15;
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    last_lines(&String::from_utf8_lossy(text), LINES)
}

/// Returns the last lines of a text, each indented on a line of its own.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("\n    {line}")).collect()
}

/// Quotes a text for a POSIX shell.
pub(crate) fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_survives_a_shell() {
        let text = "it's $HOME\n\"x\" \\";
        let echoed =
            capture(Command::new("sh").arg("-c").arg(format!("printf %s {}", shell_quote(text))));
        assert_eq!(echoed.unwrap(), text);
    }

    #[test]
    fn failing_command_is_named_with_what_it_printed() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let message = format!("{error}");
        assert!(message.contains("exit status: 3") && message.ends_with("\n    why"), "{message}");
    }

    #[test]
    fn last_lines_keeps_the_end() {
        assert_eq!(last_lines("a\nb\nc", 2), "\n    b\n    c");
    }
}
