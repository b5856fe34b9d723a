//! The API's thread: accepts clients until it is told to stop.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::connection;
use super::socket::ListeningSocket;
use super::{EventHub, Limits, ServerError, VmmService};

/// How long to wait after a failure to accept that isn't the client's (no descriptors, no memory):
/// nothing tells when they are there again.
const RETRY_ACCEPT: Duration = Duration::from_millis(100);
/// How long a connection must have been idle to be closed for the sake of those who wait.
pub(super) const IDLE_ENOUGH: Duration = Duration::from_secs(1);

/// The API's socket: clients can connect, and are served from [`Server::spawn`] on.
#[derive(Debug)]
pub struct Server {
    socket: ListeningSocket,
    limits: Limits,
    on_start: Option<fn()>,
}

/// A server's thread. Dropping it shuts the server down.
#[derive(Debug)]
pub struct ServerHandle {
    signal: watch::Sender<Signal>,
    events: Arc<EventHub>,
    thread: Option<JoinHandle<()>>,
    /// The socket's file goes when nobody is served any more. Here, because the thread may be one
    /// that can't remove files.
    _socket: ListeningSocket,
}

/// What connections are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signal {
    /// Finish what has begun, and close.
    pub(super) stop: bool,
    /// Counts how often there was no room for another connection.
    pub(super) crowded: u64,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) service: Arc<dyn VmmService>,
    pub(super) events: Arc<EventHub>,
    pub(super) limits: Limits,
    pub(super) event_slots: Arc<Semaphore>,
    connection_slots: Arc<Semaphore>,
    signal: watch::Sender<Signal>,
}

impl Server {
    /// Listens on a new Unix socket at `path`, which only this user may connect to. A socket that a
    /// dead process left there is replaced; this one is removed when the server ends.
    ///
    /// # Errors
    /// [`ServerError`], for one when somebody listens on `path`.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        Ok(Self::over(ListeningSocket::bind(path)?))
    }

    /// Takes over a Unix socket that listens already, for example one that the parent process
    /// made. Its file is the parent's to remove.
    ///
    /// # Errors
    /// [`ServerError::NotListening`] when it's something else.
    pub fn inherit(socket: OwnedFd) -> Result<Self, ServerError> {
        Ok(Self::over(ListeningSocket::inherit(socket)?))
    }

    fn over(socket: ListeningSocket) -> Self {
        Self { socket, limits: Limits::default(), on_start: None }
    }

    /// Has the thread call `hook` before all else.
    #[must_use]
    pub fn on_start(self, hook: fn()) -> Self {
        Self { on_start: Some(hook), ..self }
    }

    /// Sets other limits than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Starts the thread that serves clients. It inherits the caller's signal mask.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left.
    pub fn spawn(
        self,
        service: Arc<dyn VmmService>,
        events: Arc<EventHub>,
    ) -> io::Result<ServerHandle> {
        let Self { socket, limits, on_start } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            UnixListener::from_std(socket.listener.try_clone()?)?
        };
        let (signal, _) = watch::channel(Signal::default());
        let shared = Arc::new(Shared {
            service,
            events: Arc::clone(&events),
            limits,
            event_slots: Arc::new(Semaphore::new(limits.max_event_streams)),
            connection_slots: Arc::new(Semaphore::new(limits.max_connections)),
            signal: signal.clone(),
        });
        let serve = move || {
            if let Some(hook) = on_start {
                hook();
            }
            // What is left of connections goes with the runtime, before the thread is joined.
            runtime.block_on(serve(listener, &shared));
        };
        let thread = std::thread::Builder::new().name("api".to_owned()).spawn(serve)?;
        Ok(ServerHandle { signal, events, thread: Some(thread), _socket: socket })
    }
}

impl ServerHandle {
    /// Accepts nobody from here on, ends the event streams after their last event, gives answers
    /// that are under way [`Limits::shutdown_timeout`], and waits for the thread's end.
    ///
    /// Requests that the service hasn't answered by then end without an answer.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.events.close();
        self.signal.send_modify(|signal| signal.stop = true);
        if thread.join().is_err() {
            log::error!("the API's thread panicked");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves until the signal to stop, then until all connections are closed or time is up.
async fn serve(listener: UnixListener, shared: &Arc<Shared>) {
    let mut signal = shared.signal.subscribe();
    while let Some((stream, slot)) =
        until_stopped(&mut signal, next_client(&listener, shared)).await
    {
        let signal = shared.signal.subscribe();
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            connection::serve(stream, &shared, signal).await;
            drop(slot);
        });
    }
    drop(listener);
    let all = u32::try_from(shared.limits.max_connections).unwrap_or(u32::MAX);
    let closed = shared.connection_slots.acquire_many(all);
    if tokio::time::timeout(shared.limits.shutdown_timeout, closed).await.is_err() {
        log::warn!("some API clients were cut off: they didn't take their answers in time");
    }
}

/// Waits for room, then for a client.
async fn next_client(
    listener: &UnixListener,
    shared: &Shared,
) -> (UnixStream, OwnedSemaphorePermit) {
    let slot = free_slot(shared).await;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                log::warn!("can't accept an API client: {error}");
                tokio::time::sleep(RETRY_ACCEPT).await;
            }
        }
    }
}

/// Waits until there is room for one more connection, and has idle ones closed to make some.
async fn free_slot(shared: &Shared) -> OwnedSemaphorePermit {
    if let Ok(slot) = Arc::clone(&shared.connection_slots).try_acquire_owned() {
        return slot;
    }
    loop {
        shared.signal.send_modify(|signal| signal.crowded += 1);
        let slot = Arc::clone(&shared.connection_slots).acquire_owned();
        if let Ok(Ok(slot)) = tokio::time::timeout(IDLE_ENOUGH, slot).await {
            return slot;
        }
    }
}

/// Runs `future` to its end unless the signal to stop comes first.
async fn until_stopped<F: Future>(
    signal: &mut watch::Receiver<Signal>,
    future: F,
) -> Option<F::Output> {
    let mut stopped = pin!(signal.wait_for(|signal| signal.stop));
    let mut future = pin!(future);
    poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
