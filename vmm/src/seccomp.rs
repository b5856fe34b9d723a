//! System call filters: what each sort of thread may ask of the host's kernel, and nothing else.
//!
//! The policies are in `resources/seccomp`, each rule with its reason; `build.rs` compiles them. A
//! thread installs its own before all else ([`sys::thread_start`]) and is held by its parent's as
//! well. A forbidden call ends the process with [`api::exit::FORBIDDEN_CALL`], and a message that
//! names the thread and the call ([`sys::forbidden_call`]).

use api::event::{ErrorKind, Event, Failure};
use seccompiler::{apply_filter, sock_filter};
use sys::forbidden_call::{self, LastWords, Line};
use sys::thread_start::{self, Role};

include!(concat!(env!("OUT_DIR"), "/seccomp_filters.rs"));

/// How many areas threads share for their allocations. With one, glibc neither asks for the number of
/// processors nor opens `/proc/sys/vm/overcommit_memory` when a second one shrinks: no worker's
/// policy allows either. Workers rarely allocate once they are set up.
const HEAP_ARENAS: u8 = 1;

/// Stands for what happened, while the lines around it are made.
const WHAT: &str = "\u{1}";

/// Why a process can't be filtered.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The handler of SIGSYS.
    #[error("can't handle forbidden system calls")]
    Handler(#[source] std::io::Error),
    /// A filter: above all where the kernel has none.
    #[error("the host's kernel refuses a system call filter")]
    Filter(#[source] seccompiler::Error),
}

/// Filters the calling thread, the main one, and all that it starts from now on.
///
/// # Errors
/// [`SeccompError`]: the kernel has no seccomp, or forbids it.
pub fn enable() -> Result<(), SeccompError> {
    sys::heap::limit_arenas(HEAP_ARENAS);
    forbidden_call::install_handler(last_words()).map_err(SeccompError::Handler)?;
    apply_filter(NO_CLONE3).map_err(SeccompError::Filter)?;
    install(Role::Main).map_err(SeccompError::Filter)?;
    thread_start::set_hook(begin);
    Ok(())
}

/// Filters the calling thread as one of its role.
fn install(role: Role) -> Result<(), seccompiler::Error> {
    apply_filter(match role {
        Role::Main => MAIN,
        Role::Api => API,
        Role::Vcpu => VCPU,
        Role::Worker => WORKER,
        Role::Files => FILES,
        Role::Snapshot => SNAPSHOT,
    })
}

/// Filters a new thread. The main one's filter was installed, so only a host that is out of memory
/// refuses: better no VM then than one of which a thread may do more than it should.
fn begin(role: Role) {
    if let Err(error) = install(role) {
        log::error!("can't filter the system calls of a thread ({role:?}): {error}");
        std::process::exit(api::exit::FAILURE.into());
    }
}

/// Makes the lines that the process's end writes around what happened.
fn last_words() -> LastWords {
    let failure = Failure {
        kind: ErrorKind::ForbiddenCall,
        field: None,
        message: WHAT.to_owned(),
        causes: Vec::new(),
    };
    let event = serde_json::to_string(&Event::Failed { error: failure }).unwrap_or_default();
    let what = serde_json::to_string(WHAT).unwrap_or_default();
    let (before, after) = event.split_once(what.trim_matches('"')).unwrap_or_default();
    LastWords {
        log: Line {
            before: "vmm: ".to_owned(),
            after: ". The guest may have broken out of its virtual machine, or the policy lacks a \
                    call: the process ends.\n"
                .to_owned(),
        },
        metrics: "{\"seccomp\":{\"num_faults\":1}}\n".to_owned(),
        event: Line { before: before.to_owned(), after: format!("{after}\n") },
        exit_code: api::exit::FORBIDDEN_CALL,
    }
}

#[cfg(test)]
mod tests;
