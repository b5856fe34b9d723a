//! The handshake: which version of the protocol holds.

use std::fmt;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::{AgentError, ErrorKind, ProtocolError, frame, limits};

/// The versions that this build speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl VersionRange {
    /// Returns the newest version that both ranges have.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u32> {
        let (min, max) = (self.min.max(other.min), self.max.min(other.max));
        (min <= max).then_some(max)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// The first frame of a control connection, from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that the host speaks.
    pub versions: VersionRange,
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The versions that the agent speaks.
    pub versions: VersionRange,
    /// The version that holds on this connection; none when there's no common one, in which case
    /// the agent closes the connection.
    #[serde(default)]
    pub version: Option<u32>,
    /// The agent's own version, for people.
    #[serde(default)]
    pub agent: String,
}

/// Opens a connection as its client. Returns the agent's answer.
pub(crate) fn open(connection: &mut (impl Read + Write)) -> Result<HelloReply, ProtocolError> {
    frame::write(connection, &Hello { versions: VERSIONS })?;
    let mut reply: HelloReply = frame::expect(connection)?;
    reply.agent = limits::clean(&reply.agent, 128);
    match reply.version {
        None => Err(ProtocolError::Version { ours: VERSIONS, theirs: reply.versions }),
        Some(version) if (VERSIONS.min..=VERSIONS.max).contains(&version) => Ok(reply),
        Some(version) => {
            Err(ProtocolError::Violation(format!("it chose version {version}, of {VERSIONS}")))
        }
    }
}

/// Opens a connection as its server. Returns the version that holds.
pub(crate) fn answer(
    reader: &mut impl Read,
    writer: &mut impl Write,
    agent: &str,
) -> Result<u32, ProtocolError> {
    let hello: Hello = frame::expect(reader)?;
    let version = VERSIONS.newest_common(hello.versions);
    frame::write(writer, &HelloReply { versions: VERSIONS, version, agent: agent.to_owned() })?;
    version.ok_or(ProtocolError::Version { ours: VERSIONS, theirs: hello.versions })
}

/// The error for what the agent can't decode.
pub(crate) fn unsupported(error: &serde_json::Error) -> AgentError {
    AgentError::new(ErrorKind::Unsupported, format!("the agent can't read the request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_holds() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).newest_common(range(2, 5)), Some(3));
        assert_eq!(range(4, 6).newest_common(range(1, 4)), Some(4));
        assert_eq!(range(1, 3).newest_common(range(4, 5)), None);
        assert_eq!(range(5, 1).newest_common(range(1, 5)), None);
    }

    #[test]
    fn a_server_without_a_common_version_says_so() {
        let mut hello = Vec::new();
        frame::write(&mut hello, &Hello { versions: VersionRange { min: 90, max: 91 } }).unwrap();
        let mut answer_bytes = Vec::new();
        let error = answer(&mut &hello[..], &mut answer_bytes, "0").unwrap_err();
        assert!(matches!(error, ProtocolError::Version { .. }));
        let reply: HelloReply = frame::expect(&mut &answer_bytes[..]).unwrap();
        assert_eq!((reply.version, reply.versions), (None, VERSIONS));
    }
}
