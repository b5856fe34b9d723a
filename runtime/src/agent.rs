//! What the agent says that went wrong, as an error of ours.

use std::io;
use std::time::Duration;

use agent_proto::ProtocolError;

use crate::{ErrorKind, Object, RuntimeError};

/// How long the agent has to accept a connection and to do the handshake.
pub(crate) const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes an error of what went wrong between the host and the agent.
pub(crate) fn agent_error(error: ProtocolError) -> RuntimeError {
    use agent_proto::ErrorKind as Agent;
    let error = match error {
        ProtocolError::Agent(error) => error,
        ProtocolError::Io(source) => {
            return RuntimeError::Protocol { who: "the container's agent", source };
        }
        error => {
            let source = io::Error::other(error);
            return RuntimeError::Protocol { who: "the container's agent", source };
        }
    };
    let kind = match error.kind {
        Agent::NoSuchPath => {
            return RuntimeError::NotFound { what: Object::Path, reference: error.message };
        }
        Agent::NotFound => ErrorKind::CommandNotFound,
        Agent::NotExecutable => ErrorKind::CommandNotExecutable,
        Agent::NoSuchUser | Agent::Invalid | Agent::Unsupported => ErrorKind::Invalid,
        Agent::NoSuchProcess | Agent::Busy => ErrorKind::Conflict,
        Agent::Network => ErrorKind::Network,
        Agent::Mount | Agent::Internal => ErrorKind::Guest,
    };
    RuntimeError::failed(kind, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_proto::AgentError;

    #[test]
    fn commands_that_cant_be_run_have_dockers_exit_codes() {
        use agent_proto::ErrorKind as Kind;
        for (kind, code) in
            [(Kind::NotFound, 127), (Kind::NotExecutable, 126), (Kind::NoSuchUser, 125)]
        {
            let error = agent_error(AgentError::new(kind, "exec: \"x\"").into());
            assert_eq!((error.exit_code(), error.to_string().as_str()), (code, "exec: \"x\""));
        }
        assert_eq!(agent_error(ProtocolError::TimedOut).exit_code(), 125);
    }
}
