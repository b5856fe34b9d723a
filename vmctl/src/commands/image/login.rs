//! `vmctl login|logout`.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::thread;

use clap::Args;
use image::Images;
use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::errors::containers::ContainerError;
use crate::errors::{CliError, notice};
use crate::output;

/// Docker Hub.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The longest password, in bytes: a token of a cloud's registry has a few thousand.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// Authenticate to a registry.
///
/// Credentials are kept as docker login keeps them: by the helper that Docker's configuration
/// names, otherwise in that file.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LoginArgs {
    /// Username.
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,

    /// Password or personal access token. Others on this host can read it there:
    /// --password-stdin is better.
    #[arg(long, short, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Take the password from stdin.
    #[arg(long, requires = "username")]
    password_stdin: bool,

    /// Speak plain HTTP to the registry, or TLS with any certificate. For a registry on this host
    /// that's tried without.
    #[arg(long)]
    insecure: bool,

    /// The registry; Docker Hub unless given.
    server: Option<String>,
}

/// Log out from a registry.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LogoutArgs {
    /// The registry; Docker Hub unless given.
    server: Option<String>,
}

pub(super) fn login(images: &Images, args: &LoginArgs) -> Result<u8, CliError> {
    let registry = registry(args.server.as_deref());
    if args.password.is_some() {
        notice(
            "WARNING! --password shows the password to others on this host. Use --password-stdin.",
        );
    }
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => read_password()?,
        None => ask_hidden("Password: ")?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(ContainerError::options("a username and a password are required").into());
    }
    images.login(registry, &user, &password, args.insecure).map_err(ContainerError::from)?;
    output::print("Login Succeeded\n")?;
    Ok(api::exit::STOPPED)
}

pub(super) fn logout(images: &Images, args: &LogoutArgs) -> Result<u8, CliError> {
    let registry = registry(args.server.as_deref());
    let was_there = images.logout(registry).map_err(ContainerError::from)?;
    output::print(&if was_there {
        format!("Removing login credentials for {registry}\n")
    } else {
        format!("Not logged in to {registry}\n")
    })?;
    Ok(api::exit::STOPPED)
}

/// The registry's host and port, of a URL, too.
fn registry(server: Option<&str>) -> &str {
    let Some(server) = server else { return DEFAULT_REGISTRY };
    let bare = server.strip_prefix("https://").or(server.strip_prefix("http://"));
    let host = bare.unwrap_or(server).split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" | "" => DEFAULT_REGISTRY,
        host => host,
    }
}

fn input_failed(source: io::Error) -> CliError {
    CliError::System { what: "standard input can't be read", source }
}

/// Reads a line from the terminal.
fn ask(prompt: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(ContainerError::NoLogin.into());
    }
    let mut stderr = io::stderr();
    // A prompt that can't be shown keeps nobody from answering.
    let _ = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(input_failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a line that the terminal doesn't show.
fn ask_hidden(prompt: &str) -> Result<String, CliError> {
    let hidden = Hidden::new().map_err(input_failed);
    let line = ask(prompt)?;
    drop(hidden?);
    notice("");
    Ok(line)
}

/// The terminal shows nothing that's typed for as long as this lives; a signal that ends the process
/// ends that, too.
struct Hidden(Option<Termios>);

impl Hidden {
    fn new() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let modes = tcgetattr(stdin())?;
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let guard = Self(Some(modes.clone()));
        thread::spawn(move || {
            for signal in signals.forever() {
                drop(Self(Some(modes.clone())));
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
        guard.hide()?;
        Ok(guard)
    }

    fn hide(&self) -> io::Result<()> {
        let Some(mut modes) = self.0.clone() else { return Ok(()) };
        modes.local_modes -= LocalModes::ECHO;
        Ok(tcsetattr(stdin(), OptionalActions::Flush, &modes)?)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            // The terminal may be gone; there's nobody to tell then.
            let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
        }
    }
}

/// Reads the password from standard input, without the line's end.
fn read_password() -> Result<String, CliError> {
    let mut password = String::new();
    let mut input = io::stdin().lock().take(MAX_PASSWORD_BYTES);
    input.read_to_string(&mut password).map_err(input_failed)?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::registry;

    #[test]
    fn registries_are_hosts_with_ports() {
        for (server, expected) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://registry.example/v2/"), "registry.example"),
            (Some("http://[::1]:5000"), "[::1]:5000"),
        ] {
            assert_eq!(registry(server), expected);
        }
    }
}
