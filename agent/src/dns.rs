//! Name resolution: 127.0.0.11:53, relayed to the host, which knows the containers' names.
//!
//! Over TCP and over vsock a message has its length before it, so a TCP connection is passed on as
//! it is. A datagram gets a vsock connection of its own, and an answer that doesn't fit is cut down
//! to its question with the truncation bit, which has the resolver ask again over TCP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use agent_proto::HOST_DNS_PORT;
use vsock::{VMADDR_CID_HOST, VsockStream};

use crate::files::RELAY_ADDRESS;
use crate::stdio::SMALL_STACK;

/// The most queries and connections at once. Datagrams beyond are dropped: resolvers ask again.
const MAX_AT_ONCE: usize = 64;

/// How long the host has to answer: resolvers give up sooner.
const PATIENCE: Duration = Duration::from_secs(15);

/// The largest answer by datagram when the query doesn't say (RFC 1035 §2.3.4).
const PLAIN_BYTES: usize = 512;

/// The largest answer by datagram at all: what fits a packet on any link.
const MOST_BYTES: usize = 1232;

const HEADER_BYTES: usize = 12;

/// The relay, which runs until the machine's end.
#[derive(Debug)]
pub(crate) struct Relay {
    at_once: AtomicUsize,
}

impl Relay {
    /// Starts it.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let address = SocketAddr::from((RELAY_ADDRESS, 53));
        let (udp, tcp) = (Arc::new(UdpSocket::bind(address)?), TcpListener::bind(address)?);
        let relay = Arc::new(Self { at_once: AtomicUsize::new(0) });
        let (for_udp, for_tcp) = (Arc::clone(&relay), Arc::clone(&relay));
        let builder = || thread::Builder::new().name("dns".into()).stack_size(SMALL_STACK);
        builder().spawn(move || for_udp.serve_udp(&udp))?;
        builder().spawn(move || for_tcp.serve_tcp(&tcp))?;
        Ok(relay)
    }

    fn serve_udp(self: &Arc<Self>, socket: &Arc<UdpSocket>) {
        let mut buffer = [0; 4096];
        loop {
            let Ok((count, client)) = socket.recv_from(&mut buffer) else { continue };
            let query = buffer.get(..count).unwrap_or_default().to_vec();
            let socket = Arc::clone(socket);
            self.spawn(move || {
                // A query that can't be answered is one that was lost: the resolver asks again.
                if let Ok(answer) = ask_host(&query) {
                    let _ = socket.send_to(&fitted(&query, answer), client);
                }
            });
        }
    }

    fn serve_tcp(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let Ok((client, _)) = listener.accept() else { continue };
            self.spawn(move || drop(relay_connection(client)));
        }
    }

    /// Runs `work` on a thread, unless there are too many.
    fn spawn(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        if self.at_once.fetch_add(1, Ordering::Relaxed) >= MAX_AT_ONCE {
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let relay = Arc::clone(self);
        let builder = thread::Builder::new().name("dns-query".into()).stack_size(SMALL_STACK);
        let spawned = builder.spawn(move || {
            work();
            relay.at_once.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            self.at_once.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn connect() -> io::Result<VsockStream> {
    let host = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, HOST_DNS_PORT)?;
    host.set_read_timeout(Some(PATIENCE))?;
    host.set_write_timeout(Some(PATIENCE))?;
    Ok(host)
}

fn ask_host(query: &[u8]) -> io::Result<Vec<u8>> {
    ask(&mut connect()?, query)
}

/// Sends a query with its length, and reads the answer with its own.
fn ask(host: &mut (impl Read + Write), query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    host.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    host.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    host.read_exact(&mut answer)?;
    Ok(answer)
}

/// Returns the answer, or what's left of it if it doesn't fit a datagram.
fn fitted(query: &[u8], mut answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= datagram_bytes(query) {
        return answer;
    }
    let end = question_end(&answer).unwrap_or(HEADER_BYTES);
    answer.truncate(end);
    // TC, and no records of any kind (RFC 1035 §4.1.1).
    if let Some(flags) = answer.get_mut(2) {
        *flags |= 0x02;
    }
    if let Some(counts) = answer.get_mut(6..HEADER_BYTES) {
        counts.fill(0);
    }
    if end == HEADER_BYTES
        && let Some(questions) = answer.get_mut(4..6)
    {
        questions.fill(0);
    }
    answer
}

/// Returns where the only question of a message ends.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            // A question has nothing before it that it could point to.
            length if length > 63 => return None,
            length => at += length + 1,
        }
    }
    // The root label, a type, a class.
    let end = at + 5;
    (end <= message.len()).then_some(end)
}

/// Returns how long an answer the query's sender takes (EDNS, RFC 6891 §6.1.2).
fn datagram_bytes(query: &[u8]) -> usize {
    let size = || {
        // With one question, no answers and no authorities, the OPT record comes next.
        if query.get(6..10)? != [0; 4] || query.get(10..12)? == [0; 2] {
            return None;
        }
        let record = query.get(question_end(query)?..)?;
        let [0, 0, 41, high, low, ..] = *record else { return None };
        Some(usize::from(u16::from_be_bytes([high, low])))
    };
    size().unwrap_or(PLAIN_BYTES).clamp(PLAIN_BYTES, MOST_BYTES)
}

/// Passes a TCP connection on to the host.
fn relay_connection(client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let host = connect()?;
    let (mut to_host, mut from_client) = (host.try_clone()?, client.try_clone()?);
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(SMALL_STACK);
        builder.spawn_scoped(scope, move || {
            let copied = io::copy(&mut from_client, &mut to_host);
            // Either way there are no more questions.
            let _ = to_host.shutdown(Shutdown::Write);
            copied.map(drop)
        })?;
        let (mut from_host, mut to_client) = (&host, &client);
        let copied = io::copy(&mut from_host, &mut to_client);
        let _ = client.shutdown(Shutdown::Both);
        copied.map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A message about `a.bc`, type A, class IN, with this many more bytes.
    fn message(more: &[u8], counts: [u8; 8]) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 0x81, 0x80];
        message.extend(counts);
        message.extend(b"\x01a\x02bc\0\0\x01\0\x01");
        message.extend(more);
        message
    }

    #[test]
    fn a_query_is_framed_and_its_answer_unframed() {
        let (mut relay, mut host) = UnixStream::pair().unwrap();
        let host = thread::spawn(move || {
            let mut query = [0; 5];
            host.read_exact(&mut query).unwrap();
            assert_eq!(&query, b"\0\x03abc");
            host.write_all(b"\0\x02hi").unwrap();
        });
        assert_eq!(ask(&mut relay, b"abc").unwrap(), b"hi");
        host.join().unwrap();
        assert!(ask(&mut relay, b"abc").is_err());
    }

    #[test]
    fn an_answer_too_long_becomes_its_question_with_the_truncation_bit() {
        let query = message(&[], [0, 1, 0, 0, 0, 0, 0, 0]);
        let answer = message(&[7; 600], [0, 1, 0, 9, 0, 0, 0, 0]);
        let short = fitted(&query, answer.clone());
        let mut expected = query.clone();
        expected[2] |= 2;
        assert_eq!(short, expected);
        let edns = message(&[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(fitted(&edns, answer.clone()), answer);
        let huge = message(&[7; 4000], [0, 1, 0, 9, 0, 0, 0, 0]);
        assert_eq!(fitted(&edns, huge).len(), query.len());
    }

    #[test]
    fn messages_that_make_no_sense_are_cut_to_their_header() {
        for mut answer in [
            vec![0; 2000],
            [vec![0; 4], vec![0, 1], vec![0; 6], vec![0xc0; 2000]].concat(),
            [vec![0; 4], vec![0, 1], vec![0; 6], vec![63; 2000]].concat(),
        ] {
            let query = std::mem::take(&mut answer.clone());
            let short = fitted(&query, std::mem::take(&mut answer));
            assert_eq!((short.len(), short[2]), (HEADER_BYTES, 2));
        }
        assert_eq!(datagram_bytes(&[]), PLAIN_BYTES);
        assert_eq!(question_end(&[0, 0, 0, 0, 0, 1]), None);
    }
}
