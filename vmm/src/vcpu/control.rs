//! What others ask of a vCPU's thread, and where the thread waits meanwhile.
//!
//! ```text
//!             request_pause           KVM_RUN said EINTR
//!    Running ───────────────▶ Running ───────────────────▶ Parked ──▶ jobs, one after the other
//!       ▲                  (wanted: Pause)                    │
//!       └─────────────────────────────────────────────────────┘ resume
//! ```
//!
//! Whoever wants the vCPU out sets what is wanted and the run page's `immediate_exit`, both under
//! the lock, and sends the kick signal last. Wherever the thread is then, its next `KVM_RUN` first
//! completes the instruction whose port or memory access it has just served, and then comes back
//! with EINTR without entering the guest: that's the only place where it looks here. So nothing is
//! lost between a look and `KVM_RUN`, and a parked vCPU's registers are those between two
//! instructions (Linux's `Documentation/virt/kvm/api.rst` §4.10 and §5, `immediate_exit`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use kvm_ioctls::VcpuFd;
use sys::vcpu_run::ImmediateExit;

/// Why a vCPU can't do what it's asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VcpuError {
    /// Only a paused vCPU's state can be reached.
    #[error("vCPU {index} isn't paused")]
    NotPaused {
        /// Its number.
        index: u8,
    },
    /// Its thread is over: the machine is ending.
    #[error("vCPU {index} has ended")]
    Ended {
        /// Its number.
        index: u8,
    },
}

/// Work for a parked vCPU's thread.
type Job = Box<dyn FnOnce(&mut VcpuFd) + Send>;

/// What the vCPU is to do. A stop is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Stop,
}

/// Where its thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Parked,
    Ended,
}

/// What the thread and those who hold its handle share.
pub(super) struct Control {
    index: u8,
    shared: Mutex<Shared>,
    /// Signalled when anything in `shared` changes.
    changed: Condvar,
}

struct Shared {
    wanted: Wanted,
    phase: Phase,
    jobs: VecDeque<Job>,
    /// Set if and only if `wanted` isn't [`Wanted::Run`].
    immediate_exit: ImmediateExit,
}

impl Shared {
    fn want(&mut self, wanted: Wanted) {
        if self.wanted != Wanted::Stop {
            self.wanted = wanted;
            self.immediate_exit.set(wanted != Wanted::Run);
        }
    }
}

impl Control {
    /// Creates the control of vCPU `index`, whose run page's flag is `immediate_exit`.
    pub(super) fn new(index: u8, immediate_exit: ImmediateExit, wanted: Wanted) -> Arc<Self> {
        immediate_exit.set(wanted != Wanted::Run);
        let shared =
            Shared { wanted, phase: Phase::Running, jobs: VecDeque::new(), immediate_exit };
        Arc::new(Self { index, shared: Mutex::new(shared), changed: Condvar::new() })
    }

    /// Asks for `wanted`; the caller kicks the thread afterwards if it is to leave the guest.
    pub(super) fn want(&self, wanted: Wanted) {
        self.lock().want(wanted);
        self.changed.notify_all();
    }

    /// Waits until the vCPU is parked.
    ///
    /// # Errors
    /// [`VcpuError`] when nobody wants it to be, or when its thread has ended.
    pub(super) fn wait_parked(&self) -> Result<(), VcpuError> {
        let mut shared = self.lock();
        loop {
            match (shared.phase, shared.wanted) {
                (Phase::Ended, _) | (_, Wanted::Stop) => return Err(self.ended()),
                (_, Wanted::Run) => return Err(self.not_paused()),
                (Phase::Parked, Wanted::Pause) => return Ok(()),
                (Phase::Running, Wanted::Pause) => shared = self.wait(shared),
            }
        }
    }

    /// Runs `work` on the parked vCPU's thread, and returns what it returned.
    ///
    /// # Errors
    /// [`VcpuError`] when the vCPU isn't parked, or its thread ends meanwhile.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut VcpuFd) -> T + Send + 'static,
    ) -> Result<T, VcpuError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            let mut shared = self.lock();
            match (shared.phase, shared.wanted) {
                (Phase::Ended, _) | (_, Wanted::Stop) => return Err(self.ended()),
                (Phase::Parked, Wanted::Pause) => {}
                _ => return Err(self.not_paused()),
            }
            shared.jobs.push_back(Box::new(move |fd| {
                // Whoever asked waits below for as long as the job exists.
                let _ = sender.send(work(fd));
            }));
        }
        self.changed.notify_all();
        receiver.recv().map_err(|_| {
            // The job was dropped undone, or panicked and the thread is on its way out.
            let mut shared = self.lock();
            while shared.phase != Phase::Ended {
                shared = self.wait(shared);
            }
            self.ended()
        })
    }

    /// Parks the calling thread, the vCPU's own, for as long as a pause is wanted, and does the
    /// jobs that come meanwhile. Returns whether the vCPU is to go on.
    pub(super) fn park(&self, fd: &mut VcpuFd) -> Wake {
        let mut shared = self.lock();
        if shared.wanted == Wanted::Run {
            return Wake::Undisturbed;
        }
        loop {
            if let Some(job) = shared.jobs.pop_front() {
                drop(shared);
                job(fd);
                shared = self.lock();
                continue;
            }
            match shared.wanted {
                Wanted::Run => break,
                Wanted::Stop => return Wake::Stop,
                Wanted::Pause => {}
            }
            if shared.phase != Phase::Parked {
                shared.phase = Phase::Parked;
                self.changed.notify_all();
            }
            shared = self.wait(shared);
        }
        shared.phase = Phase::Running;
        Wake::Resumed
    }

    /// Tells whoever waits that the vCPU's thread is over.
    pub(super) fn end(&self) {
        let jobs = {
            let mut shared = self.lock();
            shared.phase = Phase::Ended;
            std::mem::take(&mut shared.jobs)
        };
        drop(jobs);
        self.changed.notify_all();
    }

    pub(super) fn index(&self) -> u8 {
        self.index
    }

    fn ended(&self) -> VcpuError {
        VcpuError::Ended { index: self.index }
    }

    fn not_paused(&self) -> VcpuError {
        VcpuError::NotPaused { index: self.index }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why [`Control::park`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Nobody wanted the vCPU to pause.
    Undisturbed,
    /// It was paused and is to run again.
    Resumed,
    /// It is to leave its loop.
    Stop,
}

impl fmt::Debug for Control {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        formatter
            .debug_struct("Control")
            .field("index", &self.index)
            .field("wanted", &shared.wanted)
            .field("phase", &shared.phase)
            .finish_non_exhaustive()
    }
}
