//! Copies that were asked for, each with a stream of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_proto::{Response, TransferId, answer_stream};

use crate::changes::{self, Overlay};
use crate::fault::{AgentError, ErrorKind, Result, fault};
use crate::paths::{IMAGE, UPPER_DATA};
use crate::root::MountedRoot;
use crate::server::Ticket;
use crate::{cgroup, copy};

/// The most transfers that are asked for and not finished.
const MAX_TRANSFERS: usize = 64;

/// What is copied.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    CopyIn { path: String, keep_owners: bool, replace: bool },
    CopyOut { path: String },
    Changes,
    CopyLayer { freeze: bool },
}

/// All transfers.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    all: BTreeMap<TransferId, Transfer>,
}

#[derive(Debug)]
struct Transfer {
    owner: u64,
    /// Taken when the stream comes.
    job: Option<(Job, Arc<MountedRoot>)>,
    result: Option<Result<()>>,
    waiter: Option<Ticket>,
}

impl Transfers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, for the connection `owner`.
    pub(crate) fn prepare(
        &self,
        job: Job,
        root: Arc<MountedRoot>,
        owner: u64,
    ) -> Result<TransferId> {
        let mut state = self.state();
        if state.all.len() >= MAX_TRANSFERS {
            return fault(ErrorKind::Busy, "too many copies at once");
        }
        state.next += 1;
        let id = TransferId(state.next);
        let transfer = Transfer { owner, job: Some((job, root)), result: None, waiter: None };
        state.all.insert(id, transfer);
        Ok(id)
    }

    /// Does one, on its stream.
    pub(crate) fn run(&self, id: TransferId, mut connection: File) {
        let job = self.state().all.get_mut(&id).and_then(|transfer| transfer.job.take());
        let Some((job, root)) = job else {
            let message = format!("there's no transfer {} to start", id.0);
            let error = AgentError::new(ErrorKind::Invalid, message);
            // The host will see the connection's end.
            let _ = answer_stream(&mut connection, Some(error));
            return;
        };
        let result = match answer_stream(&mut connection, None) {
            Ok(()) => carry_out(&job, &root, &connection),
            Err(error) => fault(ErrorKind::Internal, error.to_string()),
        };
        // Those who hold the root let go of it before the end is told.
        drop(root);
        let mut state = self.state();
        if let Some(transfer) = state.all.get_mut(&id) {
            match transfer.waiter.take() {
                None => transfer.result = Some(result),
                Some(waiter) => {
                    state.all.remove(&id);
                    drop(state);
                    waiter.answer(result.map(|()| Response::Done));
                }
            }
        }
    }

    /// Answers when a transfer has ended, and forgets it.
    pub(crate) fn finish(&self, id: TransferId, ticket: Ticket) {
        let mut state = self.state();
        let Some(transfer) = state.all.get_mut(&id) else {
            drop(state);
            let message = format!("there's no transfer {}", id.0);
            return ticket.answer(fault(ErrorKind::Invalid, message));
        };
        match transfer.result.take() {
            None => transfer.waiter = Some(ticket),
            Some(result) => {
                state.all.remove(&id);
                drop(state);
                ticket.answer(result.map(|()| Response::Done));
            }
        }
    }

    /// Forgets those of a connection that has ended. One that runs goes on to its end.
    pub(crate) fn disown(&self, owner: u64) {
        self.state().all.retain(|_, transfer| transfer.owner != owner);
    }

    /// Forgets all that don't run.
    pub(crate) fn stop(&self) {
        self.state().all.retain(|_, transfer| transfer.job.is_none());
    }
}

fn carry_out(job: &Job, root: &MountedRoot, connection: &File) -> Result<()> {
    let overlay =
        || Overlay { upper: Path::new(UPPER_DATA), lower: Path::new(IMAGE), made: &root.made };
    let writer = || std::io::BufWriter::with_capacity(64 << 10, connection);
    let reader = || std::io::BufReader::with_capacity(64 << 10, connection);
    match job {
        Job::CopyIn { path, keep_owners, replace } => copy::in_container(&root.dir, || {
            copy::copy_in(path, reader(), *keep_owners, *replace)?;
            // What follows an archive's end is padding.
            let drained = std::io::copy(&mut { connection }, &mut std::io::sink());
            drained.map(drop).or_else(|error| fault(ErrorKind::Internal, error.to_string()))
        }),
        Job::CopyOut { path } => copy::in_container(&root.dir, || copy::copy_out(path, writer())),
        Job::Changes => changes::list(overlay(), writer()),
        Job::CopyLayer { freeze } => {
            let _frozen = freeze.then(cgroup::freeze).transpose()?;
            changes::pack_layer(overlay(), writer())
        }
    }
    .and_then(|()| {
        let mut connection = connection;
        connection.flush().or_else(|error| fault(ErrorKind::Internal, error.to_string()))
    })
}
