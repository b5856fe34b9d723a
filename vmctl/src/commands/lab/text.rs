//! An exercise's text on a terminal.

use std::env;
use std::io::{self, IsTerminal};

use super::exercise::Exercise;
use crate::errors::CliError;
use crate::output;

const BOLD: &str = "\u{1b}[1m";
const CODE: &str = "\u{1b}[36m";
const PLAIN: &str = "\u{1b}[0m";

/// Prints the text: as it is, or with headings and commands that stand out.
pub(super) fn show(exercise: &Exercise) -> Result<(), CliError> {
    let without = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::stdout().is_terminal() && !without;
    output::print(&render(&exercise.text, colour))
}

/// The text without what a terminal would act on, except for what's put in here.
fn render(text: &str, colour: bool) -> String {
    let mut rendered = String::with_capacity(text.len());
    let mut in_code = false;
    for line in text.lines() {
        let line = crate::format::one_line(&line.replace('\t', "    "));
        if line.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        let line = if in_code { format!("    {line}") } else { line };
        let style = match () {
            () if !colour => None,
            () if in_code || line.starts_with("    ") => Some(CODE),
            () if line.starts_with('#') => Some(BOLD),
            () => None,
        };
        match style {
            Some(style) => rendered += &format!("{style}{line}{PLAIN}\n"),
            None => rendered += &format!("{}\n", line.trim_end()),
        }
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_indented_and_nothing_acts_on_the_terminal() {
        let text = "# A\n\nDo\u{1b}[2J:\n\n```sh\nvmctl ps\n\tx\n```\n";
        let plain = "# A\n\nDo?[2J:\n\n    vmctl ps\n        x\n";
        assert_eq!(render(text, false), plain);
        let coloured = render(text, true);
        assert!(coloured.starts_with("\u{1b}[1m# A\u{1b}[0m\n"), "{coloured:?}");
        assert!(coloured.contains("\u{1b}[36m    vmctl ps\u{1b}[0m\n"), "{coloured:?}");
        assert!(!coloured.contains("[2J:\u{1b}") && coloured.contains("?[2J"));
    }
}
