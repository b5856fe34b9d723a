//! What every thread does first, whichever crate starts it: the process says so once, here.

use std::sync::OnceLock;

/// What a thread is there for, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Builds, changes, saves and restores the machine.
    Main,
    /// Serves the API's clients.
    Api,
    /// Runs the guest, and the registers of its devices.
    Vcpu,
    /// Serves a device's queues, or writes the console's output.
    Worker,
    /// Serves directories of the host's to a guest.
    Files,
    /// Copies guest memory to a file, or supplies it from one.
    Snapshot,
}

static HOOK: OnceLock<fn(Role)> = OnceLock::new();

/// Has every thread that starts from now on call `hook` before all else. The first call counts.
pub fn set_hook(hook: fn(Role)) {
    // A second hook would find threads that have followed the first already.
    let _ = HOOK.set(hook);
}

/// Must be called by a new thread, first of all.
pub fn begin(role: Role) {
    if let Some(hook) = HOOK.get() {
        hook(role);
    }
}
