//! Writing results to standard output.

use std::io::{self, Write};

use crate::errors::CliError;

/// Prints a result. A reader that has seen enough (`vmctl … | head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_or_end(text).map(drop)
}

/// Prints a part of a result; false if nobody reads on.
pub(crate) fn print_or_end(text: &str) -> Result<bool, CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Output(error)),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::Output(io::Error::from(error)))?;
    text.push('\n');
    print(&text)
}

/// Prints two objects as one, in a line of JSON.
pub(crate) fn print_line(
    first: &serde_json::Value,
    second: &impl serde::Serialize,
) -> Result<(), CliError> {
    let failed = |error| CliError::Output(io::Error::from(error));
    let mut line = first.clone();
    let second = serde_json::to_value(second).map_err(failed)?;
    if let (Some(line), serde_json::Value::Object(second)) = (line.as_object_mut(), second) {
        line.extend(second);
    }
    print(&format!("{line}\n"))
}
