//! `lab.toml`: what an exercise says about itself.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// How long a script may take unless the exercise says otherwise, in seconds.
const DEFAULT_LIMIT_S: u64 = 300;

/// The longest that an exercise may give its scripts, in seconds: a day.
const MAX_LIMIT_S: u64 = 24 * 60 * 60;

/// The longest title and summary, in characters.
const MAX_LINE: usize = 200;

/// What `lab.toml` holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Manifest {
    /// The title, one line.
    pub(super) title: String,
    /// What it's about, one line.
    #[serde(default)]
    pub(super) summary: String,
    /// How long a student needs.
    pub(super) minutes: u32,
    /// What it doesn't work without.
    #[serde(default)]
    pub(super) needs: Vec<Need>,
    /// What a part of it doesn't work without.
    #[serde(default)]
    pub(super) wants: Vec<Need>,
    /// Images, pulled before it's set up if they aren't there.
    #[serde(default)]
    pub(super) images: Vec<String>,
    /// How long each of its scripts may take, in seconds.
    #[serde(default = "default_limit")]
    time_limit: u64,
}

/// Something that an exercise can't do without.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Need {
    /// To be run as root.
    Root,
    /// A KVM that may be used.
    Kvm,
    /// A program on the PATH.
    Command(String),
}

impl TryFrom<String> for Need {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "root" => return Ok(Self::Root),
            "kvm" => return Ok(Self::Kvm),
            _ => {}
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        match text.strip_prefix("command:") {
            Some(name) if !name.is_empty() && name.chars().all(fits) => {
                Ok(Self::Command(name.to_owned()))
            }
            _ => Err(format!("{text:?} is neither root, kvm nor command:NAME")),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "root"),
            Self::Kvm => write!(f, "kvm"),
            Self::Command(name) => write!(f, "command:{name}"),
        }
    }
}

fn default_limit() -> u64 {
    DEFAULT_LIMIT_S
}

impl Manifest {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Says what's wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let line = line.map(|line| format!(" line {line}:")).unwrap_or_default();
            format!("lab.toml:{line} {}", error.message())
        })?;
        for (key, line) in [("title", &manifest.title), ("summary", &manifest.summary)] {
            if line.chars().any(char::is_control) || line.chars().count() > MAX_LINE {
                return Err(format!(
                    "lab.toml: {key} must be one line of at most {MAX_LINE} characters"
                ));
            }
        }
        if manifest.title.is_empty() {
            return Err("lab.toml: title is empty".to_owned());
        }
        if !(1..=MAX_LIMIT_S).contains(&manifest.time_limit) {
            return Err(format!("lab.toml: time-limit must be 1 to {MAX_LIMIT_S} seconds"));
        }
        if let Some(image) = manifest.images.iter().find(|image| !is_image(image)) {
            return Err(format!("lab.toml: {image:?} can't be the name of an image"));
        }
        Ok(manifest)
    }

    /// How long each script may take.
    pub(super) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.time_limit)
    }
}

/// Whether a text goes through as a name: what it names is found out by the pull.
fn is_image(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_says_what_is_needed() {
        let text = "title = 'A'\nminutes = 5\nneeds = ['root', 'command:curl']\ntime-limit = 7\n\
                    images = ['busybox']";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.needs, [Need::Root, Need::Command("curl".to_owned())]);
        assert_eq!(manifest.needs[1].to_string(), "command:curl");
        assert_eq!(manifest.time_limit(), Duration::from_secs(7));
        assert_eq!(manifest.images, ["busybox"]);
        let plain = Manifest::parse("title = 'A'\nminutes = 5").unwrap();
        assert_eq!(plain.time_limit(), Duration::from_secs(300));
    }

    #[test]
    fn malformed_manifest_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "missing field"),
            ("title = 'A'", "missing field `minutes`"),
            ("title = 'A'\nminutes = -1", "line 2"),
            ("title = ''\nminutes = 1", "title is empty"),
            ("title = \"a\\u001b[2J\"\nminutes = 1", "title must be one line"),
            ("title = 'A'\nminutes = 1\nneed = []", "unknown field `need`"),
            ("title = 'A'\nminutes = 1\nneeds = ['luck']", "neither root"),
            ("title = 'A'\nminutes = 1\nneeds = ['command:']", "neither root"),
            ("title = 'A'\nminutes = 1\nneeds = ['command:/bin/sh']", "neither root"),
            ("title = 'A'\nminutes = 1\ntime-limit = 0", "time-limit must be"),
            ("title = 'A'\nminutes = 1\ntime-limit = 99999999", "time-limit must be"),
            ("title = 'A'\nminutes = 1\nimages = ['--help']", "name of an image"),
            ("title = 'A'\nminutes = 1\nimages = ['']", "name of an image"),
            ("title", "lab.toml:"),
            ("\u{0}", "lab.toml:"),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
