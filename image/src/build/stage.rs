//! A stage while it's built: its image so far, its configuration, and how instructions change it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::cache::Key;
use super::config::Config;
use super::error::{BuildError, Place};
use super::parse::{Instruction, Step};
use super::variables::{self, Globals};
use crate::{HistoryEntry, Image, ImageConfig, Platform};

/// The most ports that one range may have.
const MAX_PORTS: usize = 65_536;

/// A stage's state. One that begins with another stage begins with a copy of its state.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// The image that has the layers so far; none while there are no layers.
    pub(super) image_id: Option<String>,
    /// The image, while the state is its configuration.
    pub(super) exact: Option<String>,
    pub(super) config: Config,
    pub(super) key: Key,
    /// `ARG`s with their values.
    pub(super) args: BTreeMap<String, String>,
    /// Everything of the image's configuration but `config` and `history`.
    base: ImageConfig,
    pub(super) history: Vec<HistoryEntry>,
    /// Whether this Dockerfile has set a `CMD` in this stage.
    sets_command: bool,
    escape: char,
}

impl Stage {
    /// One that begins with nothing.
    pub(super) fn scratch(platform: &Platform, escape: char) -> Self {
        let base = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        Self {
            image_id: None,
            exact: None,
            config: Config::default(),
            key: Key::of_base(None).with(&[platform.to_string().as_bytes()]),
            args: BTreeMap::new(),
            base,
            history: Vec::new(),
            sets_command: false,
            escape,
        }
    }

    /// One that begins with an image.
    pub(super) fn of_image(image: Image, escape: char) -> Self {
        let mut base = image.config;
        Self {
            config: Config::new(std::mem::take(&mut base.config)),
            history: std::mem::take(&mut base.history),
            key: Key::of_base(Some(&image.id)),
            exact: Some(image.id.clone()),
            image_id: Some(image.id),
            args: BTreeMap::new(),
            base,
            sets_command: false,
            escape,
        }
    }

    /// One that begins with this stage.
    pub(super) fn derived(&self) -> Self {
        Self { sets_command: false, ..self.clone() }
    }

    /// Expands a word by the environment and the arguments.
    ///
    /// # Errors
    /// It's malformed.
    pub(super) fn expand(&self, word: &str, place: &Place) -> Result<String, BuildError> {
        let expanded = variables::expand(word, self.escape, &self.config, &self.args);
        expanded.map_err(|problem| place.wrong(problem))
    }

    /// Expands a here-document.
    ///
    /// # Errors
    /// It's malformed.
    pub(super) fn expand_document(&self, text: &str, place: &Place) -> Result<String, BuildError> {
        let expanded = variables::expand_document(text, self.escape, &self.config, &self.args);
        expanded.map_err(|problem| place.wrong(problem))
    }

    fn expand_all(&self, words: &[String], place: &Place) -> Result<Vec<String>, BuildError> {
        words.iter().map(|word| self.expand(word, place)).collect()
    }

    fn expand_pairs(
        &self,
        pairs: &[(String, String)],
        place: &Place,
    ) -> Result<Vec<(String, String)>, BuildError> {
        let expand = |(name, value): &(String, String)| {
            Ok((self.expand(name, place)?, self.expand(value, place)?))
        };
        pairs.iter().map(expand).collect()
    }

    /// The image's configuration as it stands.
    pub(super) fn image_config(&self) -> ImageConfig {
        ImageConfig {
            config: self.config.value(),
            history: self.history.clone(),
            created: Some(now()),
            rootfs: crate::RootFs::default(),
            ..self.base.clone()
        }
    }

    /// The key of the image that the stage makes, names aside.
    pub(super) fn final_key(&self) -> Key {
        let author = self.base.author.as_deref().unwrap_or_default();
        self.key.with(&[b"image", self.config.value().to_string().as_bytes(), author.as_bytes()])
    }

    /// Notes an instruction that made no layer.
    pub(super) fn note(&mut self, text: &str) {
        self.exact = None;
        self.key = self.key.with(&[text.as_bytes()]);
        self.history.push(entry(text, true));
    }

    /// Notes an instruction that makes a layer; the image itself is made afterwards.
    pub(super) fn note_layer(&mut self, key: Key, text: &str) {
        self.exact = None;
        self.key = key;
        self.history.push(entry(text, false));
    }

    /// Goes on from the image of the last layer.
    pub(super) fn adopt(&mut self, image: Image) {
        self.history = image.config.history;
        self.exact = Some(image.id.clone());
        self.image_id = Some(image.id);
    }

    /// Adds `--label`s.
    pub(super) fn add_labels(&mut self, labels: &BTreeMap<String, String>) {
        for (name, value) in labels {
            self.config.set_label(name, value);
            self.note(&format!("LABEL {name}={value}"));
        }
    }

    /// Carries out an instruction that changes the configuration only.
    ///
    /// # Errors
    /// It makes no sense.
    pub(super) fn configure(
        &mut self,
        step: &Step,
        globals: &mut Globals,
    ) -> Result<(), BuildError> {
        let place = &step.place;
        let text = match &step.instruction {
            Instruction::Arg(arguments) => {
                self.declare(arguments, place, globals)?;
                step.display.clone()
            }
            Instruction::Env(pairs) => {
                let pairs = self.expand_pairs(pairs, place)?;
                pairs.iter().for_each(|(name, value)| self.config.set_variable(name, value));
                text_of("ENV", &pairs)
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(pairs, place)?;
                pairs.iter().for_each(|(name, value)| self.config.set_label(name, value));
                text_of("LABEL", &pairs)
            }
            Instruction::User(user) => {
                let user = self.named(user, "USER", place)?;
                self.config.set_user(&user);
                format!("USER {user}")
            }
            Instruction::Expose(ports) => {
                let ports = self.expand_all(ports, place)?;
                for port in &ports {
                    let ports = parse_ports(port).ok_or_else(|| {
                        place.wrong(format!("`{port}` is no port: it's written as 80 or 53/udp"))
                    })?;
                    ports.iter().for_each(|port| self.config.expose(port));
                }
                format!("EXPOSE {}", ports.join(" "))
            }
            Instruction::Volume(paths) => {
                let paths = self.expand_all(paths, place)?;
                for path in &paths {
                    if path.trim().is_empty() {
                        return Err(place.wrong("VOLUME needs a path"));
                    }
                    self.config.add_volume(path);
                }
                format!("VOLUME {}", Value::from(paths))
            }
            Instruction::StopSignal(signal) => {
                let signal = self.named(signal, "STOPSIGNAL", place)?;
                if !is_signal(&signal) {
                    return Err(place.wrong(format!("`{signal}` is no signal")));
                }
                self.config.set_stop_signal(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Cmd(command) => {
                self.config.set_command(command);
                self.sets_command = true;
                format!("CMD {}", Value::from(self.config.words(command)))
            }
            Instruction::Entrypoint(command) => {
                self.config.set_entrypoint(command, self.sets_command);
                format!("ENTRYPOINT {}", Value::from(self.config.words(command)))
            }
            Instruction::Shell(words) => {
                self.config.set_shell(words);
                format!("SHELL {}", Value::from(words.clone()))
            }
            Instruction::Healthcheck(check) => {
                let set = self.config.set_healthcheck(check.as_ref());
                set.map_err(|problem| place.wrong(problem))?;
                step.display.clone()
            }
            Instruction::Maintainer(author) => {
                self.base.author = Some(author.clone());
                step.display.clone()
            }
            // They're the executor's.
            Instruction::Run { .. }
            | Instruction::Copy(_)
            | Instruction::Add(_)
            | Instruction::Workdir(_) => return Ok(()),
        };
        self.note(&text);
        Ok(())
    }

    fn declare(
        &mut self,
        arguments: &[(String, Option<String>)],
        place: &Place,
        globals: &mut Globals,
    ) -> Result<(), BuildError> {
        for (name, default) in arguments {
            let default = match default {
                Some(default) => Some(self.expand(default, place)?),
                None => None,
            };
            if let Some(value) = globals.declare(name, default) {
                self.args.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    /// Expands a word that mustn't become empty.
    pub(super) fn named(
        &self,
        word: &str,
        keyword: &str,
        place: &Place,
    ) -> Result<String, BuildError> {
        match self.expand(word, place)? {
            text if text.trim().is_empty() => {
                Err(place.wrong(format!("{keyword} needs an argument: `{word}` is empty")))
            }
            text => Ok(text),
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn entry(text: &str, empty_layer: bool) -> HistoryEntry {
    let (created, created_by) = (Some(now()), Some(text.to_owned()));
    HistoryEntry { created, created_by, empty_layer, ..HistoryEntry::default() }
}

fn text_of(keyword: &str, pairs: &[(String, String)]) -> String {
    let mut text = keyword.to_owned();
    for (name, value) in pairs {
        text += &format!(" {name}={value}");
    }
    text
}

/// Reads `80`, `53/udp` or `8000-8010/tcp`.
fn parse_ports(text: &str) -> Option<Vec<String>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let ports = (first..=last).take(MAX_PORTS).map(|port| format!("{port}/{protocol}"));
    (0 < first && first <= last).then(|| ports.collect())
}

fn is_signal(text: &str) -> bool {
    let is_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '+' | '-');
    is_number || (name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_signals_are_read_and_others_refused() {
        assert_eq!(parse_ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(parse_ports("5-6/UDP").unwrap(), ["5/udp", "6/udp"]);
        for text in ["", "0", "x", "80/", "80/x", "6-5", "65536", "1-", "-1"] {
            assert_eq!(parse_ports(text), None, "{text}");
        }
        for (text, is_it) in [
            ("SIGTERM", true),
            ("QUIT", true),
            ("9", true),
            ("SIGRTMIN+3", true),
            ("0", false),
            ("65", false),
            ("SIG", false),
            ("term nation", false),
        ] {
            assert_eq!(is_signal(text), is_it, "{text}");
        }
    }
}
