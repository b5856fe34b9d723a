//! Registries' credentials, where Docker keeps them: `config.json`, or a helper's keychain.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ImageError;
use crate::error::shown;
use crate::files::at;
use crate::reference::DOCKER_HUB;

/// What Docker calls its own registry here.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry knows a user by.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// Exchanged for others.
    Token(String),
}

/// `config.json`.
pub(crate) struct Config {
    path: PathBuf,
    value: Map<String, Value>,
}

impl Config {
    /// Reads `$DOCKER_CONFIG/config.json`, or that of the home directory; nothing, if it isn't there.
    pub(crate) fn open() -> Result<Self, ImageError> {
        let directory = env::var_os("DOCKER_CONFIG").filter(|it| !it.is_empty()).map(PathBuf::from);
        let home = || env::home_dir().map(|home| home.join(".docker"));
        match directory.or_else(home) {
            Some(directory) => Self::read(&directory),
            None => Ok(Self { path: PathBuf::new(), value: Map::new() }),
        }
    }

    pub(crate) fn read(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join("config.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, value: Map::new() });
            }
            Err(error) => return Err(at("read", &path)(error)),
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { path, value: Map::new() });
        }
        let value = serde_json::from_slice(&text).map_err(|error| ImageError::Invalid {
            what: path.display().to_string(),
            problem: error.to_string(),
        })?;
        Ok(Self { path, value })
    }

    /// What's known for a registry.
    pub(crate) fn find(&self, registry: &str) -> Result<Option<Credential>, ImageError> {
        if let Some(helper) = self.helper(registry) {
            let found = helper_get(helper, registry)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(entry) = self.entry(registry) else { return Ok(None) };
        let text = |name: &str| entry.get(name)?.as_str().filter(|it| !it.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::Token(token.to_owned())));
        }
        if let Some(auth) = text("auth") {
            return decode(auth).map(Some).ok_or_else(|| ImageError::Invalid {
                what: self.path.display().to_string(),
                problem: format!("the \"auth\" of {registry} is no base64 of USER:PASSWORD"),
            });
        }
        let pair = text("username").zip(text("password"));
        Ok(pair.map(|(user, password)| Credential::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }

    /// Keeps a password; the file has no other reader.
    pub(crate) fn store(
        mut self,
        registry: &str,
        user: &str,
        password: &str,
    ) -> Result<(), ImageError> {
        let entry = match self.helper(registry) {
            Some(helper) => {
                let said =
                    json!({ "ServerURL": key(registry), "Username": user, "Secret": password });
                helper_run(helper, "store", &said.to_string())?;
                json!({})
            }
            None => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
        };
        self.forget(registry);
        let auths = self.value.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key(registry).to_owned(), entry);
        }
        self.write()
    }

    /// Forgets a registry's; false if there were none.
    pub(crate) fn erase(mut self, registry: &str) -> Result<bool, ImageError> {
        let mut had_any = false;
        if let Some(helper) = self.helper(registry)
            && helper_get(helper, registry)?.is_some()
        {
            helper_run(helper, "erase", key(registry))?;
            had_any = true;
        }
        if self.forget(registry) {
            self.write()?;
            had_any = true;
        }
        Ok(had_any)
    }

    /// Takes a registry's entries out; false if there were none.
    fn forget(&mut self, registry: &str) -> bool {
        let Some(auths) = self.value.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|name, _| host(name) != host(key(registry)));
        auths.len() < before
    }

    fn entry(&self, registry: &str) -> Option<&Value> {
        let auths = self.value.get("auths")?.as_object()?;
        let same = || auths.iter().find(|(name, _)| host(name) == host(key(registry)));
        auths.get(key(registry)).or_else(|| same().map(|(_, entry)| entry))
    }

    /// The name of the program that keeps a registry's.
    fn helper(&self, registry: &str) -> Option<&str> {
        let own = self
            .value
            .get("credHelpers")
            .and_then(|it| it.get(key(registry)).or_else(|| it.get(registry)));
        own.or_else(|| self.value.get("credsStore"))?.as_str().filter(|it| !it.is_empty())
    }

    /// Replaces the file.
    fn write(&self) -> Result<(), ImageError> {
        // A link stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(at("make", directory))?;
        let text = serde_json::to_vec_pretty(&self.value).map_err(|error| ImageError::Invalid {
            what: path.display().to_string(),
            problem: error.to_string(),
        })?;
        // Such files are their owner's alone.
        let mut file =
            tempfile::NamedTempFile::new_in(directory).map_err(at("make a file in", directory))?;
        file.write_all(&text).map_err(at("write", &path))?;
        file.as_file().sync_all().map_err(at("write", &path))?;
        file.persist(&path).map_err(|error| at("replace", &path)(error.error))?;
        Ok(())
    }
}

/// What a registry's entry is called.
fn key(registry: &str) -> &str {
    if registry == DOCKER_HUB || registry == "index.docker.io" { HUB_KEY } else { registry }
}

/// The host of an entry's name, which may be a URL.
fn host(name: &str) -> &str {
    let name =
        name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let host = name.split('/').next().unwrap_or(name);
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
}

fn decode(auth: &str) -> Option<Credential> {
    let auth = auth.trim_end_matches('=');
    let text = String::from_utf8(STANDARD_NO_PAD.decode(auth).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0').to_owned();
    Some(Credential::Password { user: user.to_owned(), password })
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

fn helper_get(helper: &str, registry: &str) -> Result<Option<Credential>, ImageError> {
    let Some(said) = helper_run(helper, "get", key(registry))? else { return Ok(None) };
    let kept: Kept = serde_json::from_slice(&said)
        .map_err(|error| helper_error(helper, &format!("what it prints is no JSON: {error}")))?;
    Ok(Some(match kept.username.as_str() {
        "<token>" => Credential::Token(kept.secret),
        _ => Credential::Password { user: kept.username, password: kept.secret },
    }))
}

fn helper_error(helper: &str, problem: &str) -> ImageError {
    ImageError::Request { message: format!("docker-credential-{helper}: {problem}") }
}

/// Runs a helper; `None` if it hasn't got it.
fn helper_run(helper: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>, ImageError> {
    if helper.contains('/') {
        return Err(helper_error(helper, "a helper's name has no slash"));
    }
    let failed = |error: io::Error| helper_error(helper, &error.to_string());
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that doesn't read it says why by its exit.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if verb == "get" && said.contains("not found") {
        return Ok(None);
    }
    Err(helper_error(helper, &shown(&said)))
}

#[cfg(test)]
mod tests;
