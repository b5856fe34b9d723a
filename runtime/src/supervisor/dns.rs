//! A guest's DNS queries: each of its connections to the host's port carries messages with their
//! lengths before them, as DNS over TCP does (RFC 1035 §4.2.2).

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use network::Dns;

use super::listener::{Listener, Slots};
use crate::RuntimeError;

/// How many connections of a guest are served at once; more are closed.
const MAX_CONNECTIONS: usize = 32;

/// How long a guest may take with a message.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers a guest's queries until dropped.
pub(super) fn serve(path: &Path, dns: Dns) -> Result<Listener, RuntimeError> {
    let (dns, slots) = (Arc::new(dns), Slots::default());
    Listener::open(path, "dns", move |stream| {
        let Some(slot) = slots.take(MAX_CONNECTIONS) else { return ControlFlow::Continue(()) };
        let dns = Arc::clone(&dns);
        let work = move || {
            let _slot = slot;
            if let Err(error) = answer_all(stream, |query| dns.answer(query)) {
                log::debug!("a DNS connection ended: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("dns-query".to_owned()).spawn(work) {
            log::warn!("a DNS query isn't answered: {error}");
        }
        ControlFlow::Continue(())
    })
}

fn answer_all(mut stream: UnixStream, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    loop {
        match stream.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        // What is no query deserves no answer, nor does whoever sends it.
        let Some(answer) = answer(&query) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(answer);
        stream.write_all(&message)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(input: &[u8]) -> Vec<u8> {
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(input).unwrap();
        guest.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = |query: &[u8]| (query != b"bad").then(|| query.to_ascii_uppercase());
        // A guest's nonsense may be an error; it never is more.
        let _ = answer_all(host, answer);
        let mut said = Vec::new();
        // What it left unread resets the connection.
        let _ = guest.read_to_end(&mut said);
        said
    }

    #[test]
    fn each_query_is_answered_with_its_length_before_it() {
        assert_eq!(talk(b"\0\x01a\0\x02bc"), b"\0\x01A\0\x02BC");
    }

    #[test]
    fn nonsense_ends_the_connection() {
        assert_eq!(talk(b"\0\x03bad\0\x01a"), b"");
        assert_eq!(talk(b"\0"), b"");
        assert_eq!(talk(b"\xff\xffshort"), b"");
        assert_eq!(talk(b"\0\0"), b"\0\0");
    }
}
