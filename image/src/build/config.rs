//! An image's configuration (OCI image-spec 1.1, `config.md`, with Docker's additions) as
//! instructions change it.

use serde_json::{Map, Value, json};

use super::parse::{Command, Healthcheck};

/// The shell of the shell form, unless `SHELL` says another.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The `config` object.
#[derive(Clone, Debug, Default)]
pub(super) struct Config(Map<String, Value>);

impl Config {
    /// Takes an image's, whatever is in it.
    pub(super) fn new(config: Value) -> Self {
        match config {
            Value::Object(fields) => Self(fields),
            _ => Self::default(),
        }
    }

    /// As it goes into an image.
    pub(super) fn value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    fn strings(&self, field: &str) -> Vec<String> {
        let list = self.0.get(field).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn text(&self, field: &str) -> String {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn object(&mut self, field: &str) -> &mut Map<String, Value> {
        let value = self.0.entry(field).or_insert(Value::Null);
        if !value.is_object() {
            *value = json!({});
        }
        match value {
            Value::Object(fields) => fields,
            _ => unreachable!("it has just been made one"),
        }
    }

    /// The environment, as `NAME=VALUE`.
    pub(super) fn environment(&self) -> Vec<String> {
        self.strings("Env")
    }

    /// A variable of the environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let variables = self.environment();
        let mut found = variables.iter().filter_map(|variable| variable.split_once('='));
        found.find(|(other, _)| *other == name).map(|(_, value)| value.to_owned())
    }

    /// `ENV`.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) {
        let mut variables = self.environment();
        let text = format!("{name}={value}");
        let is_it = |other: &&mut String| other.split('=').next() == Some(name);
        match variables.iter_mut().find(is_it) {
            Some(variable) => *variable = text,
            None => variables.push(text),
        }
        self.0.insert("Env".to_owned(), json!(variables));
    }

    /// `LABEL`.
    pub(super) fn set_label(&mut self, name: &str, value: &str) {
        self.object("Labels").insert(name.to_owned(), json!(value));
    }

    /// `EXPOSE`, as `80/tcp`.
    pub(super) fn expose(&mut self, port: &str) {
        self.object("ExposedPorts").insert(port.to_owned(), json!({}));
    }

    /// `VOLUME`.
    pub(super) fn add_volume(&mut self, path: &str) {
        self.object("Volumes").insert(path.to_owned(), json!({}));
    }

    /// The working directory, absolute.
    pub(super) fn directory(&self) -> String {
        match self.text("WorkingDir") {
            path if path.starts_with('/') => path,
            path => format!("/{path}"),
        }
    }

    /// `WORKDIR`; a relative one begins at the last one.
    pub(super) fn set_directory(&mut self, path: &str) {
        let path = self.absolute(path);
        self.0.insert("WorkingDir".to_owned(), json!(path));
    }

    /// A path seen from the working directory, without a slash at its end.
    pub(super) fn absolute(&self, path: &str) -> String {
        let whole = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.directory()),
        };
        format!("/{}", super::ignore::clean(&whole))
    }

    /// The user that commands run as, empty for root.
    pub(super) fn user(&self) -> String {
        self.text("User")
    }

    /// `USER`.
    pub(super) fn set_user(&mut self, user: &str) {
        self.0.insert("User".to_owned(), json!(user));
    }

    /// `STOPSIGNAL`.
    pub(super) fn set_stop_signal(&mut self, signal: &str) {
        self.0.insert("StopSignal".to_owned(), json!(signal));
    }

    fn shell(&self) -> Vec<String> {
        match self.strings("Shell") {
            words if words.is_empty() => SHELL.map(str::to_owned).to_vec(),
            words => words,
        }
    }

    /// `SHELL`.
    pub(super) fn set_shell(&mut self, words: &[String]) {
        self.0.insert("Shell".to_owned(), json!(words));
    }

    /// The words that a command is run as.
    pub(super) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    /// `CMD`.
    pub(super) fn set_command(&mut self, command: &Command) {
        let words = self.words(command);
        self.0.insert("Cmd".to_owned(), json!(words));
    }

    /// `ENTRYPOINT`: arguments that the base had for its own entry point are gone with that;
    /// `keeps_command` if this Dockerfile has set them.
    pub(super) fn set_entrypoint(&mut self, command: &Command, keeps_command: bool) {
        let words = self.words(command);
        self.0.insert("Entrypoint".to_owned(), json!(words));
        if !keeps_command {
            self.0.remove("Cmd");
        }
    }

    /// `HEALTHCHECK`.
    ///
    /// # Errors
    /// What's wrong with an option.
    pub(super) fn set_healthcheck(&mut self, check: Option<&Healthcheck>) -> Result<(), String> {
        let Some(check) = check else {
            self.0.insert("Healthcheck".to_owned(), json!({ "Test": ["NONE"] }));
            return Ok(());
        };
        let test = match &check.command {
            Command::Exec(words) => [&["CMD".to_owned()], &words[..]].concat(),
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        };
        let mut fields = json!({ "Test": test });
        for (name, value) in &check.options {
            let (field, number) = match name.as_str() {
                "interval" => ("Interval", nanoseconds(value)?),
                "timeout" => ("Timeout", nanoseconds(value)?),
                "start-period" => ("StartPeriod", nanoseconds(value)?),
                "start-interval" => ("StartInterval", nanoseconds(value)?),
                "retries" => {
                    let retries = value.parse().map_err(|_| format!("`{value}` is no number"))?;
                    ("Retries", retries)
                }
                other => return Err(format!("HEALTHCHECK has no option --{other}")),
            };
            fields[field] = json!(number);
        }
        self.0.insert("Healthcheck".to_owned(), fields);
        Ok(())
    }
}

/// Reads a duration as Go writes it: `1m30s`, `500ms`.
fn nanoseconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no duration: it's written as 30s or 1m30s");
    let mut left = text;
    let mut sum = 0.0;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = left[..digits].parse().map_err(|_| wrong())?;
        let rest = &left[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600e9,
            "m" => 60e9,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return Err(wrong()),
        };
        sum += number * unit;
        left = &rest[end..];
    }
    match text.is_empty() || sum > i64::MAX as f64 {
        true => Err(wrong()),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "compared")]
        false => Ok(sum as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration_as_dockers_do() {
        let mut config = Config::new(json!({ "Env": ["PATH=/bin"], "Cmd": ["base"] }));
        config.set_variable("A", "1");
        config.set_variable("PATH", "/usr/bin");
        assert_eq!(config.environment(), ["PATH=/usr/bin", "A=1"]);
        config.set_directory("a/b");
        config.set_directory("../c");
        assert_eq!(config.directory(), "/a/c");
        assert_eq!(config.absolute("/x/"), "/x");
        config.set_entrypoint(&Command::Exec(vec!["/run".to_owned()]), false);
        assert!(config.value().get("Cmd").is_none());
        config.set_shell(&["bash".to_owned(), "-c".to_owned()]);
        config.set_command(&Command::Shell("x y".to_owned()));
        assert_eq!(config.value()["Cmd"], json!(["bash", "-c", "x y"]));
        config.expose("80/tcp");
        assert_eq!(config.value()["ExposedPorts"], json!({ "80/tcp": {} }));
    }

    #[test]
    fn health_checks_have_durations() {
        let mut config = Config::default();
        let options = vec![("interval".to_owned(), "1m30s".to_owned())];
        let command = Command::Shell("true".to_owned());
        let check = Healthcheck { command: command.clone(), options };
        config.set_healthcheck(Some(&check)).unwrap();
        assert_eq!(
            config.value()["Healthcheck"],
            json!({ "Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000_u64 })
        );
        for (name, value) in [("interval", "5"), ("retries", "x"), ("every", "5s")] {
            let options = vec![(name.to_owned(), value.to_owned())];
            let check = Healthcheck { command: command.clone(), options };
            assert!(config.set_healthcheck(Some(&check)).is_err(), "{name}={value}");
        }
        for text in ["", "s", "1", "1x", "1.2.3s", "99999999999999999h"] {
            assert!(nanoseconds(text).is_err(), "{text}");
        }
        assert_eq!(nanoseconds("500ms"), Ok(500_000_000));
    }
}
