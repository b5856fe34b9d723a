//! Bounds of what the agent says. The host checks each before it uses the answer: a guest's agent
//! may have been taken over by what runs in the guest.

use crate::{AgentError, Event, ProtocolError, Response};

/// The most bytes of an error's message.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The most bytes of a path (`PATH_MAX`).
pub const MAX_PATH_BYTES: usize = 4096;

/// The most bytes of a file's or an interface's name (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// The most bytes of a process's command line in a listing.
pub const MAX_COMMAND_BYTES: usize = 4096;

/// The most processes in a listing.
pub const MAX_PROCESSES: usize = 32_768;

/// The most network interfaces or drives in statistics.
pub const MAX_DEVICES: usize = 256;

/// The most changes of a root file system that the host keeps.
pub const MAX_CHANGES: usize = 4_000_000;

/// The most outstanding requests on a connection.
pub const MAX_OUTSTANDING: usize = 1024;

/// Returns `text` with control characters as `?`, cut to `max_bytes` at a character's boundary.
#[must_use]
pub fn clean(text: &str, max_bytes: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(max_bytes));
    for character in text.chars() {
        let harmful = character.is_control() || is_bidirectional_control(character);
        let character = if harmful { '?' } else { character };
        if cleaned.len() + character.len_utf8() > max_bytes {
            break;
        }
        cleaned.push(character);
    }
    cleaned
}

/// Tells characters that reorder the text around them, by which output can be made to lie.
fn is_bidirectional_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks an answer of the agent's, and cleans what may be shown.
pub(crate) fn check_response(response: Response) -> Result<Response, ProtocolError> {
    Ok(match response {
        Response::Exited(status) => Response::Exited(status.checked()?),
        Response::Processes(mut processes) => {
            check_length("processes", processes.len(), MAX_PROCESSES)?;
            for process in &mut processes {
                process.clean();
            }
            Response::Processes(processes)
        }
        Response::Stats(mut stats) => {
            check_length("interfaces", stats.networks.len(), MAX_DEVICES)?;
            for network in &mut stats.networks {
                network.name = clean(&network.name, MAX_NAME_BYTES);
            }
            Response::Stats(stats)
        }
        Response::Stat(stat) => {
            check_length("bytes of a name", stat.name.len(), MAX_NAME_BYTES)?;
            check_length("bytes of a link", stat.link_target.len(), MAX_PATH_BYTES)?;
            if stat.name.contains(['/', '\0']) || stat.link_target.contains('\0') {
                return Err(ProtocolError::Violation("a name with a slash or a zero".into()));
            }
            Response::Stat(stat)
        }
        response @ (Response::Done
        | Response::Prepared { .. }
        | Response::Started { .. }
        | Response::Transfer { .. }) => response,
    })
}

/// Checks an event of the agent's.
pub(crate) fn check_event(event: Event) -> Result<Event, ProtocolError> {
    Ok(match event {
        Event::Exited { process, status } => Event::Exited { process, status: status.checked()? },
        event @ Event::OutOfMemory { .. } => event,
    })
}

/// Cleans an error of the agent's.
pub(crate) fn check_error(error: AgentError) -> AgentError {
    error.clean()
}

fn check_length(what: &str, length: usize, most: usize) -> Result<(), ProtocolError> {
    if length <= most {
        return Ok(());
    }
    Err(ProtocolError::Violation(format!("{length} {what}, of at most {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExitStatus, PathStat, ProcessId, ProcessInfo};

    #[test]
    fn text_for_a_terminal_has_no_control_characters() {
        assert_eq!(clean("a\x1b[31mb\n\u{202e}c\u{9b}", 100), "a?[31mb??c?");
        assert_eq!(clean("äöü", 5), "äö");
        assert_eq!(clean("äöü", 0), "");
    }

    #[test]
    fn exit_statuses_out_of_range_are_refused() {
        for (code, signal) in [(256, None), (-1, None), (137, Some(0)), (137, Some(65))] {
            let status = ExitStatus { code, signal, ..ExitStatus::default() };
            assert!(check_response(Response::Exited(status)).is_err(), "{status:?}");
            let event = Event::Exited { process: ProcessId::MAIN, status };
            assert!(check_event(event).is_err(), "{status:?}");
        }
    }

    #[test]
    fn long_lists_are_refused() {
        let processes = vec![ProcessInfo::default(); MAX_PROCESSES + 1];
        assert!(check_response(Response::Processes(processes)).is_err());
    }

    #[test]
    fn a_name_of_a_path_never_has_a_slash() {
        for name in ["../../etc/passwd", "a\0b"] {
            let stat = PathStat { name: name.into(), ..PathStat::default() };
            assert!(check_response(Response::Stat(stat)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn command_lines_are_cleaned() {
        let command = "\x1b]0;owned\x07".to_owned();
        let process = ProcessInfo { command, ..ProcessInfo::default() };
        let Ok(Response::Processes(processes)) = check_response(Response::Processes(vec![process]))
        else {
            panic!("a list of processes");
        };
        assert_eq!(processes[0].command, "?]0;owned?");
    }
}
