//! Dockerfiles read: logical lines, here-documents, instructions with their places.
//!
//! The parsers on crates.io know here-documents only where they come first on a line, and drop their
//! names; `RUN cat <<EOF >/file`, which people write, needs both.

use super::error::{BuildError, Place};
use super::words;

/// The largest Dockerfile that's read, in bytes.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// A Dockerfile.
#[derive(Debug)]
pub(super) struct Dockerfile {
    /// `ARG` instructions before the first `FROM`.
    pub(super) global_args: Vec<Step>,
    pub(super) stages: Vec<Stage>,
    /// The character that escapes: `\` unless a directive says otherwise.
    pub(super) escape: char,
}

/// A stage: a `FROM` and what follows it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) place: Place,
    /// What it begins with, not expanded.
    pub(super) base: String,
    /// Its name in lower case.
    pub(super) name: Option<String>,
    /// `--platform`, not expanded.
    pub(super) platform: Option<String>,
    pub(super) steps: Vec<Step>,
}

/// An instruction, where it is, and what it says in one line.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) place: Place,
    /// As it's shown while it's carried out, and what the cache goes by.
    pub(super) display: String,
    pub(super) instruction: Instruction,
}

/// An instruction. Words are not expanded yet, except that line breaks are gone.
#[derive(Debug)]
pub(super) enum Instruction {
    /// Names and default values.
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run {
        command: Command,
        documents: Vec<Document>,
    },
    Copy(Transfer),
    Add(Transfer),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Cmd(Command),
    Entrypoint(Command),
    Volume(Vec<String>),
    Shell(Vec<String>),
    /// `None` takes the base's away.
    Healthcheck(Option<Healthcheck>),
    StopSignal(String),
    Maintainer(String),
}

/// `RUN`, `CMD` and `ENTRYPOINT` have two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A JSON array: run as it is.
    Exec(Vec<String>),
    /// For the shell.
    Shell(String),
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// Its delimiter, which is also its file name.
    pub(super) name: String,
    /// Whether variables in it are expanded: its delimiter isn't quoted.
    pub(super) expand: bool,
    pub(super) content: String,
}

/// What `COPY` and `ADD` say.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// `--from`: a stage, its number, or an image.
    pub(super) from: Option<String>,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<String>,
    /// Patterns, or documents by name.
    pub(super) sources: Vec<Source>,
    pub(super) destination: String,
}

/// What's copied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pattern(String),
    Document(Document),
}

/// A health check of an image.
#[derive(Debug)]
pub(super) struct Healthcheck {
    pub(super) command: Command,
    /// Options with their values, as they're written.
    pub(super) options: Vec<(String, String)>,
}

/// Reads a Dockerfile; `name` is what errors call it.
///
/// # Errors
/// [`BuildError::Dockerfile`], with the line that's wrong.
pub(super) fn parse(name: &str, text: &str) -> Result<Dockerfile, BuildError> {
    let mut lines = Lines::new(name, text);
    let escape = lines.escape;
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    while let Some(line) = lines.next_logical()? {
        let place = line.place.clone();
        if line.keyword == "FROM" {
            stages.push(stage(&line)?);
            continue;
        }
        let step = Step {
            display: format!("{} {}", line.keyword, line.rest).trim_end().to_owned(),
            instruction: instruction(&mut lines, &line, escape)?,
            place,
        };
        match stages.last_mut() {
            Some(stage) => stage.steps.push(step),
            None if matches!(step.instruction, Instruction::Arg(_)) => global_args.push(step),
            None => return Err(step.place.wrong("a Dockerfile begins with FROM (or ARG)")),
        }
    }
    if stages.is_empty() {
        let place = Place { file: name.to_owned(), line: 1, text: String::new() };
        return Err(place.wrong("there's no FROM instruction"));
    }
    Ok(Dockerfile { global_args, stages, escape })
}

/// A line with its continuations joined.
struct Logical {
    place: Place,
    /// In upper case.
    keyword: String,
    rest: String,
    /// As [`rest`](Self::rest), with line breaks kept, for the shell.
    raw: String,
}

struct Lines<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
    next: usize,
    escape: char,
}

impl<'a> Lines<'a> {
    fn new(name: &'a str, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines: Vec<_> =
            text.split('\n').map(|it| it.strip_suffix('\r').unwrap_or(it)).collect();
        let mut escape = '\\';
        for line in &lines {
            let Some(directive) = line.trim().strip_prefix('#') else { break };
            let Some((key, value)) = directive.split_once('=') else { break };
            if key.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
                escape = '`';
            }
        }
        Self { name, lines, next: 0, escape }
    }

    fn place(&self, index: usize) -> Place {
        let text = self.lines.get(index).copied().unwrap_or_default();
        Place { file: self.name.to_owned(), line: index + 1, text: text.trim().to_owned() }
    }

    /// What's before a line's continuation mark, or `None` if it has none.
    fn continued<'l>(&self, line: &'l str) -> Option<&'l str> {
        line.trim_end().strip_suffix(self.escape)
    }

    fn next_logical(&mut self) -> Result<Option<Logical>, BuildError> {
        while self.lines.get(self.next).is_some_and(|line| is_blank_or_comment(line)) {
            self.next += 1;
        }
        let first = self.next;
        if first >= self.lines.len() {
            return Ok(None);
        }
        let (mut joined, mut raw) = (String::new(), String::new());
        while let Some(line) = self.lines.get(self.next) {
            self.next += 1;
            if self.next > first + 1 && is_blank_or_comment(line) {
                continue;
            }
            let Some(part) = self.continued(line) else {
                joined.push_str(line);
                raw.push_str(line);
                break;
            };
            joined.push_str(part);
            raw.push_str(part);
            raw.push_str("\\\n");
        }
        let place = self.place(first);
        let joined = joined.trim();
        let keyword: String = joined.chars().take_while(|c| !c.is_whitespace()).collect::<String>();
        let rest = joined[keyword.len()..].trim().to_owned();
        // A keyword may itself be broken over lines.
        let raw = raw.trim_start().strip_prefix(&keyword).unwrap_or(&rest).trim().to_owned();
        if !keyword.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(place.wrong(format!("`{keyword}` is no instruction")));
        }
        Ok(Some(Logical { place, keyword: keyword.to_ascii_uppercase(), rest, raw }))
    }

    /// Reads the documents that a line announces.
    fn documents(&mut self, line: &Logical) -> Result<Vec<Document>, BuildError> {
        let mut documents = Vec::new();
        for word in words::split(&line.rest, self.escape) {
            let Some(marker) = Marker::parse(&word) else { continue };
            documents.push(self.document(marker, &line.place)?);
        }
        Ok(documents)
    }

    fn document(&mut self, marker: Marker, place: &Place) -> Result<Document, BuildError> {
        let mut content = String::new();
        while let Some(line) = self.lines.get(self.next) {
            self.next += 1;
            let line = if marker.strip_tabs { line.trim_start_matches('\t') } else { line };
            if line == marker.name {
                let Marker { name, expand, .. } = marker;
                return Ok(Document { name, expand, content });
            }
            content.push_str(line);
            content.push('\n');
        }
        Err(place.wrong(format!("the here-document's end, `{}`, is missing", marker.name)))
    }
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// `<<EOF`, `<<-EOF`, `3<<"EOF"`.
struct Marker {
    name: String,
    expand: bool,
    strip_tabs: bool,
}

impl Marker {
    fn parse(word: &str) -> Option<Self> {
        let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strip_tabs, name) = match word.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, word),
        };
        let unquoted: String = name.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        (!unquoted.is_empty() && unquoted.chars().all(is_name)).then_some(Self {
            expand: unquoted.len() == name.len(),
            name: unquoted,
            strip_tabs,
        })
    }
}

/// Tells whether a command is nothing but a here-document.
pub(super) fn is_document(command: &str) -> bool {
    !command.contains(char::is_whitespace) && Marker::parse(command).is_some()
}

fn stage(line: &Logical) -> Result<Stage, BuildError> {
    let (flags, rest) = flags(line)?;
    let mut platform = None;
    for (name, value) in flags {
        match name.as_str() {
            "platform" => platform = Some(value),
            _ => return Err(line.place.wrong(format!("FROM has no option --{name}"))),
        }
    }
    let words: Vec<_> = rest.split_whitespace().collect();
    let (base, name) = match words[..] {
        [base] => (base, None),
        [base, as_, name] if as_.eq_ignore_ascii_case("as") => (base, Some(name.to_lowercase())),
        _ => return Err(line.place.wrong("expected `FROM IMAGE [AS NAME]`")),
    };
    if let Some(name) = &name {
        let mut characters = name.chars();
        let begins = characters.next().is_some_and(|c| c.is_ascii_lowercase());
        let is_rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !begins || !characters.all(is_rest) {
            return Err(line.place.wrong(format!("`{name}` is no name for a stage")));
        }
    }
    let place = line.place.clone();
    Ok(Stage { place, base: base.to_owned(), name, platform, steps: Vec::new() })
}

/// Options with their values, and what follows them.
type Flags<'a> = (Vec<(String, String)>, &'a str);

/// Splits `--name=value` options off a line.
fn flags(line: &Logical) -> Result<Flags<'_>, BuildError> {
    let mut flags = Vec::new();
    let mut rest = line.rest.as_str();
    while let Some(flag) = rest.strip_prefix("--") {
        let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
        let (name, value) = flag[..end].split_once('=').unwrap_or((&flag[..end], ""));
        if name.is_empty() {
            return Err(line.place.wrong("an option has no name"));
        }
        flags.push((name.to_owned(), value.to_owned()));
        rest = flag[end..].trim_start();
    }
    Ok((flags, rest))
}

fn instruction(
    lines: &mut Lines<'_>,
    line: &Logical,
    escape: char,
) -> Result<Instruction, BuildError> {
    let one = |text: &str| match text {
        "" => Err(line.place.wrong(format!("{} needs an argument", line.keyword))),
        text => Ok(text.to_owned()),
    };
    Ok(match line.keyword.as_str() {
        "ARG" => Instruction::Arg(arguments(line, escape)?),
        "ENV" => Instruction::Env(pairs(line, escape)?),
        "LABEL" => Instruction::Label(pairs(line, escape)?),
        "RUN" => run(lines, line)?,
        "COPY" => Instruction::Copy(transfer(lines, line, escape)?),
        "ADD" => Instruction::Add(transfer(lines, line, escape)?),
        "WORKDIR" => Instruction::Workdir(one(&line.rest)?),
        "USER" => Instruction::User(one(&line.rest)?),
        "STOPSIGNAL" => Instruction::StopSignal(one(&line.rest)?),
        "MAINTAINER" => Instruction::Maintainer(one(&line.rest)?),
        "EXPOSE" => Instruction::Expose(list(line, escape)?),
        "VOLUME" => Instruction::Volume(match json_array(&line.rest) {
            Some(paths) => paths,
            None => list(line, escape)?,
        }),
        "CMD" => Instruction::Cmd(command(&line.rest, &line.raw)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(&line.rest, &line.raw)),
        "SHELL" => match json_array(&line.rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => return Err(line.place.wrong("SHELL takes a JSON array, as in [\"sh\", \"-c\"]")),
        },
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(line)?),
        "ONBUILD" => {
            return Err(line.place.wrong("ONBUILD isn't supported: OCI images can't carry it"));
        }
        other => return Err(line.place.wrong(format!("there's no instruction {other}"))),
    })
}

fn run(lines: &mut Lines<'_>, line: &Logical) -> Result<Instruction, BuildError> {
    let (flags, rest) = flags(line)?;
    if let Some((name, _)) = flags.first() {
        return Err(line.place.wrong(format!("RUN --{name} isn't supported")));
    }
    let command = command(rest, &line.raw);
    let documents = match &command {
        Command::Exec(_) => Vec::new(),
        Command::Shell(_) => lines.documents(line)?,
    };
    if rest.is_empty() {
        return Err(line.place.wrong("RUN needs a command"));
    }
    Ok(Instruction::Run { command, documents })
}

fn command(rest: &str, raw: &str) -> Command {
    match json_array(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(raw.to_owned()),
    }
}

/// A JSON array of strings; anything else is for the shell, as in Docker.
fn json_array(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn list(line: &Logical, escape: char) -> Result<Vec<String>, BuildError> {
    let words = words::split(&line.rest, escape);
    match words.is_empty() {
        true => Err(line.place.wrong(format!("{} needs an argument", line.keyword))),
        false => Ok(words),
    }
}

fn arguments(line: &Logical, escape: char) -> Result<Vec<(String, Option<String>)>, BuildError> {
    list(line, escape)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(line.place.wrong("an argument has no name")),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        })
        .collect()
}

/// `NAME=VALUE …`, or the old `NAME VALUE` where the value is the rest of the line.
fn pairs(line: &Logical, escape: char) -> Result<Vec<(String, String)>, BuildError> {
    let words = list(line, escape)?;
    let (first, rest) = line.rest.split_once(char::is_whitespace).unwrap_or((&line.rest, ""));
    if !words[0].contains('=') {
        if rest.trim().is_empty() {
            return Err(line.place.wrong(format!("{first} has no value")));
        }
        return Ok(vec![(first.to_owned(), rest.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(line.place.wrong(format!("expected NAME=VALUE, not `{word}`"))),
        })
        .collect()
}

fn transfer(lines: &mut Lines<'_>, line: &Logical, escape: char) -> Result<Transfer, BuildError> {
    let (flags, rest) = flags(line)?;
    let mut transfer = Transfer::default();
    for (name, value) in flags {
        match (name.as_str(), line.keyword.as_str()) {
            ("from", "COPY") => transfer.from = Some(value),
            ("chown", _) => transfer.chown = Some(value),
            ("chmod", _) => transfer.chmod = Some(value),
            // What it promises, layers that don't depend on those below, is so anyway.
            ("link", _) => {}
            (name, keyword) => {
                return Err(line.place.wrong(format!("{keyword} --{name} isn't supported")));
            }
        }
    }
    let (mut words, mut documents) = match json_array(rest) {
        Some(words) => (words, Vec::new()),
        None => (words::split(rest, escape), lines.documents(line)?),
    };
    let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
        return Err(line.place.wrong(format!("{} needs a source and a destination", line.keyword)));
    };
    transfer.destination = destination;
    documents.reverse();
    for word in words {
        transfer.sources.push(match Marker::parse(&word).and_then(|_| documents.pop()) {
            Some(document) => Source::Document(document),
            None => Source::Pattern(word),
        });
    }
    Ok(transfer)
}

fn healthcheck(line: &Logical) -> Result<Option<Healthcheck>, BuildError> {
    let (options, rest) = flags(line)?;
    let (form, command_text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match form.to_ascii_uppercase().as_str() {
        "NONE" if command_text.trim().is_empty() => Ok(None),
        "CMD" if !command_text.trim().is_empty() => {
            let text = command_text.trim();
            Ok(Some(Healthcheck { command: command(text, text), options }))
        }
        _ => Err(line.place.wrong("expected HEALTHCHECK [OPTIONS] CMD COMMAND, or NONE")),
    }
}

#[cfg(test)]
#[path = "parse/tests.rs"]
mod tests;
