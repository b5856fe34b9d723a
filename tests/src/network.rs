//! The host's side of a network: TAPs and network namespaces, removed when dropped.

use std::fs::File;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `ip` with these arguments, which must succeed, and returns what it printed.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ip {}: {errors}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A persistent TAP among the host's interfaces.
pub struct Tap {
    /// The interface's name.
    pub name: String,
}

impl Tap {
    /// Makes one; `options` are those of `ip tuntap add`, such as `user 1000`.
    pub fn new(name: &str, options: &[&str]) -> Result<Self> {
        let command = ["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"];
        ip(&[&command, options].concat())?;
        Ok(Self { name: name.to_owned() })
    }

    /// Returns what a VM could change about it: flags, owner, address, MTU.
    pub fn settings(&self) -> Result<String> {
        let read = |file: &str| {
            let path = format!("/sys/class/net/{}/{file}", self.name);
            std::fs::read_to_string(&path).with_context(|| path)
        };
        let files = ["flags", "tun_flags", "owner", "group", "address", "mtu"];
        files.iter().map(|file| Ok(format!("{file} {}", read(file)?))).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = ip(&["link", "delete", "dev", &self.name]);
    }
}

/// A network namespace with a TAP in it.
pub struct Namespace {
    /// Its name to `ip netns`.
    pub name: String,
}

impl Namespace {
    /// The TAP's name.
    pub const TAP: &str = "tap0";

    /// The address of the host's end.
    pub const HOST: &str = "192.0.2.1";

    /// The address that the guest is to take.
    pub const GUEST: &str = "192.0.2.2";

    /// Makes one for the test of this name; `options` are those of `ip tuntap add`.
    pub fn new(test: &str, options: &[&str]) -> Result<Self> {
        // Two at once would race for the directory that `ip` makes for the first.
        static MAKING: Mutex<()> = Mutex::new(());
        let namespace = Self { name: format!("vmctl-{test}-{}", std::process::id()) };
        {
            let _guard = MAKING.lock().map_err(|_| anyhow!("another test panicked in here"))?;
            ip(&["netns", "add", &namespace.name])?;
        }
        let tuntap = ["tuntap", "add", "dev", Self::TAP, "mode", "tap", "vnet_hdr"];
        namespace.ip(&[&tuntap, options].concat())?;
        namespace.ip(&["link", "set", "dev", "lo", "up"])?;
        namespace.ip(&["address", "add", &format!("{}/24", Self::HOST), "dev", Self::TAP])?;
        namespace.ip(&["link", "set", "dev", Self::TAP, "up"])?;
        Ok(namespace)
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Prepares a command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` in it; the sockets that `work` makes stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| path)?;
        // The namespace is a thread's own: this one ends with the work.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().map_err(|_| anyhow!("the work in the namespace panicked"))?
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What's in it goes with it.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}
