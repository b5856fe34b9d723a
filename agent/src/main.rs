//! The first process of a container's virtual machine.
//!
//! It's the only program of the initramfs. It mounts what the kernel offers ([`boot`]), listens to
//! the host on two vsock ports ([`server`]) and carries out requests ([`agent`]): makes the VM the
//! container's ([`configure`]), puts its root together ([`root`], [`volumes`]), starts processes in
//! it ([`launch`], [`stage`]), carries their streams ([`relay`]), tells what they use, copies files,
//! and ends the machine.
//!
//! The container's processes have namespaces of their own for processes, mounts and cgroups; the
//! rest of the VM is theirs alone anyway. No seccomp filter is installed: Docker's default one
//! protects a kernel that containers share, while here the kernel that a process may attack is its
//! own, and the host's protection is the VM.
//!
//! # Trust
//!
//! The agent trusts the host, and nothing else: connections from other CIDs than the host's are
//! closed, so that a process in the guest can't ask it for anything, and images, archives and the
//! container's files are read as what an attacker may have made. In the other direction, a process in
//! the guest may connect to the host's vsock ports as the agent does: the host listens on port 53,
//! which answers DNS queries, and until the agent has said that it's there on one for that.
//!
//! # Size
//!
//! It's loaded with every container: there's no async runtime, no logger, and rtnetlink's few
//! messages are built by hand ([`netlink`]).

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod agent;
mod boot;
mod capabilities;
mod cgroup;
mod changes;
mod command;
mod configure;
mod copy;
mod dns;
mod drives;
mod fault;
mod files;
mod in_root;
mod launch;
mod listing;
mod lookup;
mod mounting;
mod netlink;
mod network;
mod notify;
mod paths;
mod relay;
mod root;
mod server;
mod stage;
mod stats;
mod stdio;
mod sys;
mod table;
mod transfers;
mod users;
mod volumes;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use crate::agent::Agent;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    if arguments.next().as_deref() == Some(stage::NAME) {
        let code = stage::main(arguments.next().as_deref());
        return ExitCode::from(u8::try_from(code).unwrap_or(125));
    }
    if std::process::id() != 1 {
        eprintln!(
            "agent: this is the first process of a container's virtual machine, and nothing else"
        );
        return ExitCode::from(2);
    }
    // What goes wrong from here on ends the machine: the kernel panics when its first process ends.
    if let Err(error) = run() {
        eprintln!("agent: cannot start: {error}");
    }
    boot::power_off();
    ExitCode::FAILURE
}

fn run() -> std::io::Result<()> {
    boot::prepare()?;
    // Every thread inherits this: the reaper waits for signals, nobody else sees any.
    sys::block_signals();
    let agent = Arc::new(Agent::default());
    let reaper = Arc::clone(&agent);
    thread::Builder::new().name("reaper".into()).spawn(move || reaper.reap_forever())?;
    server::serve(&agent)
}
