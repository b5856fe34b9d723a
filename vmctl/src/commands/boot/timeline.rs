//! The file that `--timeline` names.

use std::fs::File;
use std::path::{Path, PathBuf};

use api::event::Event;

use crate::errors::CliError;

/// Takes events down as they come, if anyone wants them.
#[derive(Debug)]
pub(super) struct Timeline(Option<(PathBuf, File)>);

impl Timeline {
    pub(super) fn create(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else { return Ok(Self(None)) };
        match File::create(path) {
            Ok(file) => Ok(Self(Some((path.to_owned(), file)))),
            Err(source) => Err(CliError::Timeline { path: path.to_owned(), source }),
        }
    }

    /// Takes an event down. A file that can't be written any more ends the record, not the VM.
    pub(super) fn record(&mut self, event: &Event) {
        let Some((path, file)) = &mut self.0 else { return };
        if let Err(error) = event.write_line(file) {
            log::warn!("--timeline {}: {error}; what follows isn't recorded", path.display());
            self.0 = None;
        }
    }
}
