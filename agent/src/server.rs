//! Listening for the host.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agent_proto::{
    AgentError, CONTROL_PORT, Event, READY_PORT, Request, Responder, Response, STREAM_PORT, Stream,
    accept, accept_stream, answer_stream,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

use crate::agent::Agent;

/// How long the host has to say what a connection is for, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stacks of threads that serve a connection: requests are decoded and carried out on them.
const STACK: usize = 512 << 10;

/// Where the answer to a request goes.
#[derive(Debug)]
pub(crate) struct Ticket {
    responder: Responder<File>,
    id: u64,
}

impl Ticket {
    /// Answers. A host that's gone needs no answer.
    pub(crate) fn answer(self, result: Result<Response, AgentError>) {
        let _ = self.responder.answer(self.id, result);
    }
}

/// A connection that events are sent on.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber(Responder<File>);

impl Subscriber {
    /// Sends an event. Returns false when the host is gone.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.0.event(event).is_ok()
    }
}

/// Serves the host on both ports, for ever.
pub(crate) fn serve(agent: &Arc<Agent>) -> io::Result<()> {
    let control = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, CONTROL_PORT)?;
    let streams = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, STREAM_PORT)?;
    let for_streams = Arc::clone(agent);
    thread::Builder::new().name("streams".into()).stack_size(STACK).spawn(move || {
        listen(&streams, |connection| {
            let agent = Arc::clone(&for_streams);
            serve_stream(&agent, connection);
        });
    })?;
    announce();
    let connections = Arc::new(AtomicU64::new(0));
    listen(&control, |connection| {
        serve_control(agent, connection, connections.fetch_add(1, Ordering::Relaxed));
    });
    Ok(())
}

/// Tells the host that both ports are there. One that doesn't wait for that needn't listen.
fn announce() {
    if let Err(error) = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, READY_PORT)
        && error.kind() != io::ErrorKind::ConnectionReset
    {
        eprintln!("agent: cannot tell the host that it may connect: {error}");
    }
}

/// Tells whether a peer may talk to the agent: only the host. What runs in the guest can open
/// vsock sockets too.
fn is_host(cid: u32) -> bool {
    cid == VMADDR_CID_HOST
}

fn listen(listener: &VsockListener, serve: impl Fn(File) + Sync) {
    thread::scope(|scope| {
        loop {
            match listener.accept() {
                Ok((connection, peer)) if is_host(peer.cid()) => {
                    let connection = File::from(OwnedFd::from(connection));
                    let builder = thread::Builder::new().name("connection".into());
                    let serve = &serve;
                    let spawned =
                        builder.stack_size(STACK).spawn_scoped(scope, move || serve(connection));
                    if let Err(error) = spawned {
                        eprintln!("agent: cannot serve a connection: {error}");
                    }
                }
                Ok((_, peer)) => eprintln!("agent: refused a connection from CID {}", peer.cid()),
                Err(error) => {
                    // Memory or descriptors ran out: others will let go of some.
                    eprintln!("agent: cannot accept a connection: {error}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    });
}

/// Serves a control connection until the host closes it.
pub(crate) fn serve_control(agent: &Arc<Agent>, connection: File, number: u64) {
    if let Err(error) = try_serve_control(agent, connection, number) {
        eprintln!("agent: a control connection ended: {error}");
    }
    agent.connection_closed(number);
}

fn try_serve_control(
    agent: &Arc<Agent>,
    connection: File,
    number: u64,
) -> Result<(), agent_proto::ProtocolError> {
    let io = agent_proto::ProtocolError::Io;
    set_timeouts(&connection, Some(PATIENCE)).map_err(io)?;
    let reader = connection.try_clone().map_err(io)?;
    let mut accepted =
        accept(reader, connection.try_clone().map_err(io)?, env!("CARGO_PKG_VERSION"))?;
    // Between requests the host may take its time; answers it has to take.
    set_socket_timeout(&connection, Timeout::Recv, None).map_err(|error| io(error.into()))?;
    while let Some(incoming) = accepted.requests.next_request()? {
        let ticket = Ticket { responder: accepted.responder.clone(), id: incoming.id };
        match incoming.request {
            Err(error) => ticket.answer(Err(error)),
            Ok(Request::Subscribe) => {
                agent.subscribe(Subscriber(accepted.responder.clone()));
                ticket.answer(Ok(Response::Done));
            }
            Ok(request) => agent.handle(request, ticket, number),
        }
    }
    Ok(())
}

/// Serves a stream connection: hands it to its process, or does its transfer.
pub(crate) fn serve_stream(agent: &Arc<Agent>, mut connection: File) {
    if set_timeouts(&connection, Some(PATIENCE)).is_err() {
        return;
    }
    let Ok(stream) = accept_stream(&mut connection) else { return };
    // From here on the other side may be as slow as it likes.
    if set_timeouts(&connection, None).is_err() {
        return;
    }
    if let Stream::Transfer { transfer } = stream {
        return agent.transfers.run(transfer, connection);
    }
    match agent.port(stream) {
        Err(error) => drop(answer_stream(&mut connection, Some(error))),
        Ok(port) => port.connect(connection, |to| answer_stream(to, None).is_ok()),
    }
}

fn set_timeouts(connection: &File, timeout: Option<Duration>) -> io::Result<()> {
    set_socket_timeout(connection, Timeout::Recv, timeout)?;
    Ok(set_socket_timeout(connection, Timeout::Send, timeout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_may_connect() {
        let loopback_and_guests = [0, 1, 3, 1024, u32::MAX];
        assert!(is_host(2));
        assert!(!loopback_and_guests.into_iter().any(is_host));
    }
}
