//! Connections that carry data to a guest and back for as long as a test lasts, and that find out
//! when something else comes back, or nothing.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::PATIENCE;
use integration_tests::network::Namespace;
use integration_tests::transfer::random_bytes;
use integration_tests::vsock;

/// How much is sent before it must have come back.
const CHUNK_BYTES: usize = 16 << 10;

/// How long a connection rests between two chunks: the guest shares its processor with all else.
const REST: Duration = Duration::from_millis(10);

/// What is counted of each kind of connection.
#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Vsock,
}

/// The connections of one guest. They end with [`stop`](Self::stop).
#[derive(Clone, Default)]
pub(crate) struct Loads {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Chunks that came back, by [`Kind`].
    counts: [usize; 2],
    /// How often connections over vsock were broken off on purpose.
    breaks: usize,
    /// Whether nobody is there to connect to.
    away: bool,
    stopped: bool,
    problem: Option<String>,
}

/// A time in which connections over vsock may break, until this is dropped.
pub(crate) struct Away<'a>(&'a Loads);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.state().away = false;
    }
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tcp, vsock] = self.state().counts;
        write!(f, "{tcp} chunks by TCP, {vsock} over vsock")
    }
}

impl Loads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a connection that has to last, whatever becomes of the machine meanwhile.
    pub(crate) fn start_tcp(&self, namespace: &Namespace, address: (&str, u16)) -> Result<()> {
        let mut stream = namespace.inside(|| Ok(TcpStream::connect(address)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.spawn(move |loads| {
            while loads.may_go_on() {
                exchange(&mut stream).context("TCP")?;
                loads.count(Kind::Tcp);
            }
            Ok(())
        });
        Ok(())
    }

    /// Starts connections over vsock, one after the other: a restored guest has none.
    pub(crate) fn start_vsock(&self, socket: &Path, port: u32) {
        let socket = socket.to_owned();
        self.spawn(move |loads| {
            while loads.may_go_on() {
                let breaks = loads.state().breaks;
                let Err(error) = loads.serve_vsock(&socket, port) else { return Ok(()) };
                let state = loads.state();
                if !state.away && state.breaks == breaks {
                    return Err(error.context("vsock"));
                }
            }
            Ok(())
        });
    }

    fn serve_vsock(&self, socket: &Path, port: u32) -> Result<()> {
        let mut stream = vsock::connect(socket, port)?.context("nobody listens in the guest")?;
        while self.may_go_on() {
            exchange(stream.get_mut())?;
            self.count(Kind::Vsock);
        }
        Ok(())
    }

    /// Runs `work` on a thread; what it fails with is everybody's problem.
    fn spawn(&self, work: impl FnOnce(&Self) -> Result<()> + Send + 'static) {
        let loads = self.clone();
        thread::spawn(move || {
            if let Err(error) = work(&loads) {
                loads.state().problem.get_or_insert(format!("{error:#}"));
                loads.shared.changed.notify_all();
            }
        });
    }

    /// Rests a little; tells whether there is more to do.
    fn may_go_on(&self) -> bool {
        thread::sleep(REST);
        !self.state().stopped
    }

    fn count(&self, kind: Kind) {
        self.state().counts[kind as usize] += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until two chunks more have come back on each connection: the second was sent after
    /// this was called.
    pub(crate) fn await_progress(&self) -> Result<()> {
        let state = self.state();
        let wanted = state.counts.map(|count| count + 2);
        let waits = |state: &mut State| {
            let is_missing = |(count, wanted): (&usize, &usize)| count < wanted;
            state.problem.is_none() && state.counts.iter().zip(&wanted).any(is_missing)
        };
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, waits);
        let (state, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = &state.problem {
            bail!("{problem}");
        }
        ensure!(!wait.timed_out(), "{:?} chunks instead of {wanted:?}", state.counts);
        Ok(())
    }

    /// Has nobody wonder that connections over vsock break from now on.
    pub(crate) fn expect_vsock_to_break(&self) -> Away<'_> {
        let mut state = self.state();
        state.breaks += 1;
        state.away = true;
        Away(self)
    }

    /// Ends all connections, of which none may have failed.
    pub(crate) fn stop(&self) -> Result<()> {
        let mut state = self.state();
        state.stopped = true;
        match &state.problem {
            Some(problem) => bail!("{problem}"),
            None => Ok(()),
        }
    }
}

/// Sends random bytes, and gets them back.
fn exchange(stream: &mut (impl Read + Write)) -> Result<()> {
    let sent = random_bytes(CHUNK_BYTES)?;
    stream.write_all(&sent).context("send to the guest")?;
    let mut back = vec![0; sent.len()];
    match stream.read_exact(&mut back) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("nothing comes back"),
        outcome => outcome.context("hear from the guest")?,
    }
    ensure!(back == sent, "the guest sent back something else");
    Ok(())
}
