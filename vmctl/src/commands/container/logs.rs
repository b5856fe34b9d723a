//! `vmctl logs`.

use std::io::{self, Write};
use std::time::SystemTime;

use clap::Args;
use runtime::{Engine, LogLine, LogOptions, OutputStream};

use super::values::times;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;

/// Fetch the logs of a container.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LogsArgs {
    /// Follow log output.
    #[arg(long, short)]
    follow: bool,

    /// Show logs since timestamp (2026-01-02T13:23:37Z) or relative (42m for 42 minutes).
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    since: Option<SystemTime>,

    /// Show logs before a timestamp or relative.
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    until: Option<SystemTime>,

    /// Number of lines to show from the end of the logs.
    #[arg(long, short = 'n', value_name = "LINES", default_value = "all", value_parser = Tail::parse,
        allow_negative_numbers = true)]
    tail: Tail,

    /// Show timestamps.
    #[arg(long, short)]
    timestamps: bool,

    /// The container.
    container: String,
}

/// How many lines at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail(Option<usize>);

impl Tail {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<i64>() {
            _ if text == "all" => Ok(Self(None)),
            // As Docker takes a negative number.
            Ok(lines) => Ok(Self(usize::try_from(lines).ok())),
            Err(_) => Err("expected a number of lines, or all".to_owned()),
        }
    }
}

pub(super) fn run(engine: &Engine, args: &LogsArgs) -> Result<u8, CliError> {
    let options = LogOptions {
        follow: args.follow,
        since: args.since,
        until: args.until,
        tail: args.tail.0,
        stdout: true,
        stderr: true,
    };
    let reader = engine.logs(&args.container, &options).map_err(ContainerError::from)?;
    for line in reader {
        let line = line.map_err(ContainerError::from)?;
        match write(&line, args.timestamps) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(CliError::Output(error)),
        }
    }
    Ok(api::exit::STOPPED)
}

/// Writes a line where the container wrote it. Standard output is buffered by lines.
fn write(line: &LogLine, timestamps: bool) -> io::Result<()> {
    let prefix = if timestamps { format!("{} ", times::rfc3339(line.time)) } else { String::new() };
    let text = format!("{prefix}{}", line.text);
    match line.stream {
        OutputStream::Stdout => io::stdout().write_all(text.as_bytes()),
        OutputStream::Stderr => io::stderr().write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_a_number_or_all() {
        for (text, lines) in [("all", None), ("0", Some(0)), ("10", Some(10)), ("-1", None)] {
            assert_eq!(Tail::parse(text), Ok(Tail(lines)));
        }
        assert!(Tail::parse("some").is_err());
    }
}
