//! Processes: a container's own, and those beside it.

use super::Engine;
use crate::RuntimeError;
use crate::options::{AttachOptions, ExecConfig};
use crate::session::Session;

impl Engine {
    /// Starts a container and returns when its process runs; with `attach`, with a session that
    /// misses nothing of its output. One that runs already is left alone.
    ///
    /// # Errors
    /// The VM, the network or the process can't be started: [`RuntimeError::exit_code`] says 125,
    /// 126 or 127.
    pub fn start(
        &self,
        reference: &str,
        attach: Option<AttachOptions>,
    ) -> Result<Option<Session>, RuntimeError> {
        let _ = (reference, attach, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Attaches to a running container.
    ///
    /// # Errors
    /// It doesn't run, or is paused.
    pub fn attach(&self, reference: &str, options: AttachOptions) -> Result<Session, RuntimeError> {
        let _ = (reference, options, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Runs another process in a running container.
    ///
    /// # Errors
    /// The container doesn't run or is paused, or the command can't be started (126, 127).
    pub fn exec(&self, reference: &str, config: &ExecConfig) -> Result<Session, RuntimeError> {
        let _ = (reference, config, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }
}
