//! Captures a machine that runs on: it stands still only while its devices are saved; its memory is
//! copied behind its back, each page before it's first written.

use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::ApiError;
use api::action::VmmData;
use api::event::Event;
use api::ext::{ForkParams, ForkReport};
use api::http::Reply;
use snapshot::SnapshotError;
use snapshot::memory::WrittenMemory;
use snapshot::publish::PendingFile;

use super::{Draft, check_paths};
use crate::error::VmmError;
use crate::machine::{ForkedDrives, Machine};
use crate::service::metrics::Latency;
use crate::service::{Outcome, VmState, Vmm, fault};
use crate::snapshot::{self as guest_memory, CaptureError, LiveCapture};
use crate::status::monotonic_ns;

/// A fork of which memory isn't complete yet. Dropped, it's given up and leaves nothing behind.
pub(in crate::service) struct Capture {
    memory: Memory,
    draft: Draft,
    drives: ForkedDrives,
    snapshot_path: PathBuf,
    started: Instant,
    paused: Duration,
    reply: Reply,
}

/// How the memory of a fork is written.
enum Memory {
    /// While the guest runs.
    Live(LiveCapture),
    /// It was, while the guest stood still: this host can't do better.
    Written(Result<WrittenMemory, SnapshotError>),
}

/// What a fork has while its machine goes on.
struct Begun {
    draft: Draft,
    memory: Memory,
    drives: ForkedDrives,
}

impl Capture {
    /// Returns what becomes readable when memory is complete; nothing if it is already.
    pub(in crate::service) fn done(&self) -> Option<RawFd> {
        match &self.memory {
            Memory::Live(live) => Some(live.done().as_raw_fd()),
            Memory::Written(_) => None,
        }
    }

    fn is_done(&self) -> bool {
        match &self.memory {
            Memory::Live(live) => live.is_done(),
            Memory::Written(_) => true,
        }
    }
}

impl Vmm {
    /// Begins to save one consistent point of the machine. The client is answered when all files
    /// are complete.
    pub(in crate::service) fn fork(
        &mut self,
        params: &ForkParams,
        reply: &mut Option<Reply>,
    ) -> Outcome {
        if self.capture.is_some() {
            return Outcome::Done(Err(ApiError::bad_request(
                "a fork of this VM is under way: try again when it's complete",
            )));
        }
        if let Err(error) = check(params) {
            return Outcome::Done(Err(error));
        }
        let started = Instant::now();
        let begun = self.begin(params);
        let paused = started.elapsed();
        match begun {
            Err(error) => Outcome::Done(Err(error)),
            Ok(Begun { draft, memory, drives }) => {
                self.metrics.set_latency(Latency::ForkPause, paused);
                let snapshot_path = params.snapshot_path.clone();
                let Some(reply) = reply.take() else { return Outcome::Later };
                let capture =
                    Capture { memory, draft, drives, snapshot_path, started, paused, reply };
                self.capture = Some(capture);
                Outcome::Later
            }
        }
    }

    /// Saves what must be of one instant, and has memory follow.
    fn begin(&mut self, params: &ForkParams) -> Result<Begun, ApiError> {
        let was_running = self.state == VmState::Running;
        if was_running {
            self.machine()?.pause().map_err(|error| fault(&error))?;
        }
        // What the guest gave up until now is no part of the fork.
        self.remove_ejected();
        let machine = self.machine()?;
        let begun = save(machine, params);
        if was_running {
            machine.resume();
        }
        begun
    }

    /// Completes a fork whose memory is written, and answers its client.
    pub(in crate::service) fn finish_capture(&mut self) {
        let Some(capture) = self.capture.take_if(|capture| capture.is_done()) else { return };
        let Capture { memory, draft, drives, snapshot_path, started, paused, reply } = capture;
        let report = drives.report();
        let (written, faulted_pages) = match memory {
            Memory::Live(live) => {
                let faulted = live.faulted_pages();
                (live.finish().map_err(failed), faulted)
            }
            Memory::Written(written) => (written.map_err(failed), 0),
        };
        // The state last: whoever finds it finds all that it names.
        let published = written.map_err(|error| fault(&error)).and_then(|memory| {
            drives.sync()?;
            draft.publish(memory, &snapshot_path).map_err(|error| fault(&failed(error)))?;
            drives.keep();
            Ok(())
        });
        let outcome = published.map(|()| {
            let paused_ns = nanos(paused);
            self.status.send(&Event::Forked {
                snapshot_path,
                paused_ns,
                monotonic_ns: monotonic_ns(),
            });
            VmmData::Fork(ForkReport {
                paused_ns,
                total_ns: nanos(started.elapsed()),
                faulted_pages,
                drives: report,
            })
        });
        self.metrics.count_request("fork", outcome.is_ok());
        reply.send(outcome);
    }
}

/// Finds out before anything is done whether the fork's files can be made.
fn check(params: &ForkParams) -> Result<(), ApiError> {
    let images = params.drives.iter().map(|drive| &*drive.path_on_host);
    check_paths([&*params.snapshot_path, &*params.mem_file_path].into_iter().chain(images))?;
    let state = PendingFile::create(&params.snapshot_path);
    state.map(drop).map_err(|error| fault(&failed(error)))
}

fn save(machine: &mut Machine, params: &ForkParams) -> Result<Begun, ApiError> {
    let mut draft = Draft::of(machine, None).map_err(|error| fault(&error))?;
    let writer = |draft: &Draft| {
        draft.memory_writer(&params.mem_file_path).map_err(|error| fault(&failed(error)))
    };
    let first = writer(&draft)?;
    // After all that is likely to fail: a VM that goes on with other images can't go back.
    let drives = machine.fork_drives(&params.drives)?;
    drives.apply(draft.config_mut());
    let memory = match LiveCapture::start(machine.memory(), first) {
        Ok(live) => Memory::Live(live),
        Err(error) => {
            log::warn!("memory is copied while the guest stands still: {}", chain(&error));
            let written = guest_memory::write_full(machine.memory(), writer(&draft)?);
            Memory::Written(written)
        }
    };
    Ok(Begun { draft, memory, drives })
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> VmmError {
    VmmError::snapshot("complete the fork", error)
}

/// Puts an error and its causes on one line.
fn chain(error: &CaptureError) -> String {
    let first: &dyn std::error::Error = error;
    let messages = std::iter::successors(Some(first), |error| error.source());
    messages.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
