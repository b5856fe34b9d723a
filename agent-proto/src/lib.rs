//! Messages between the host and the agent, the first process of a container's virtual machine.
//!
//! The host connects, the agent listens: on [`CONTROL_PORT`] for requests, on [`STREAM_PORT`] for
//! bytes. Both are vsock ports, which the host reaches through the VM's Unix socket ([`dial`]).
//!
//! A **control connection** carries frames ([`frame`]): four bytes of length, then JSON. The client
//! opens with [`Hello`], the range of versions that it speaks; the agent answers with the one that
//! holds, or with an error, and closes. Then requests go one way, each with an id, and answers come
//! back by the same ids, in any order: several requests may be outstanding, and several connections
//! at once are fine. Events come on connections that asked for them ([`Request::Subscribe`]).
//!
//! A **stream connection** opens with one frame from the host, [`StreamHeader`], and one from the
//! agent, [`StreamReply`]. What follows is bytes, with vsock's own flow control; a closed direction
//! is the end of file.
//!
//! ```text
//! host                                    agent
//!  │ Hello{versions 1..=1}                  │   port 1024
//!  │ ─────────────────────────────────────▶ │
//!  │                  HelloReply{version 1} │
//!  │ ◀───────────────────────────────────── │
//!  │ {id 1, Exec{…}} ─────────────────────▶ │   prepares the process
//!  │ ◀───────────────── {id 1, Prepared{7}} │
//!  │                                        │   port 1025, once per stream
//!  │ StreamHeader{process 7, stdout} ─────▶ │
//!  │ ◀──────────────────────── StreamReply  │
//!  │ ◁═════════════════════════════ bytes ═ │
//!  │ {id 2, Start{7}} ────────────────────▶ │   starts it: no output is ever missed
//!  │ ◀───────────────── {id 2, Started{42}} │
//!  │ {id 3, Wait{7}} ─────────────────────▶ │
//!  │ ◀────────────── {id 3, Exited{code 0}} │   after the last byte of its output
//! ```
//!
//! Why frames of our own rather than gRPC or ttrpc: the first process of a VM needs neither an async
//! runtime nor protobuf for twenty requests, JSON can be read by a person who debugs it, and the
//! whole format is checked in one small file.
//!
//! # Trust
//!
//! The host takes what the agent says as hostile input: frames are bounded before they're read,
//! lists and strings before they're used ([`limits`]), and text that may reach a terminal is rid of
//! control characters. The agent trusts the host, but holds to the same bounds.
//!
//! # Versions
//!
//! Within a version fields may be added: unknown ones are ignored, missing ones have defaults. An
//! unknown request is answered with [`ErrorKind::Unsupported`]. What would change the meaning of
//! what exists needs a new version.

mod client;
mod configuration;
mod container;
mod dial;
mod error;
pub mod frame;
mod handshake;
pub mod limits;
mod message;
mod report;
mod server;
mod stream;

pub use client::{Client, Events};
pub use configuration::{Cidr, Clock, Configuration, Dns, HostEntry, Interface, Route};
pub use container::{
    CapabilitySpec, ContainerSpec, CpuQuota, Limits, Mount, MountSource, ProcessSpec, Rlimit, Root,
    Stdio, TerminalSize, Upper,
};
pub use dial::dial;
pub use error::{AgentError, ErrorKind, ProtocolError};
pub use handshake::{Hello, HelloReply, VERSIONS, VersionRange};
pub use message::{Event, Request, Response};
pub use report::{
    BlockStats, Change, ChangeKind, CpuStats, ExitStatus, FileChange, FileChangeKind, MemoryStats,
    NetworkStats, PathStat, PidsStats, ProcessInfo, Stats,
};
pub use server::{Accepted, Incoming, Requests, Responder, accept};
pub use stream::{
    ChangeReader, ChangeWriter, Stream, StreamHeader, StreamReply, accept_stream, answer_stream,
    open_stream,
};

use serde::{Deserialize, Serialize};

/// The vsock port of control connections.
pub const CONTROL_PORT: u32 = 1024;

/// The vsock port of stream connections.
pub const STREAM_PORT: u32 = 1025;

/// The host's vsock port for DNS: each connection carries messages with two bytes of length before
/// each, big-endian, as DNS over TCP (RFC 1035 §4.2.2).
pub const HOST_DNS_PORT: u32 = 53;

/// The host's vsock port that the agent connects to once it listens on its own: who boots a VM awaits
/// this connection rather than asking again and again. Nothing is sent on it. Without anybody there
/// the agent goes on all the same.
pub const READY_PORT: u32 = 1026;

/// The virtio-fs tag of the device that carries all shares of a container.
pub const SHARES_TAG: &str = "shares";

/// A process that the agent was asked for. [`ProcessId::MAIN`] is the container's own; the agent
/// gives each [`Request::Exec`] a number that it doesn't use again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

impl ProcessId {
    /// The container's main process.
    pub const MAIN: Self = Self(0);
}

/// A copy that was asked for and has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransferId(pub u64);
