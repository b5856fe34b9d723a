//! The process's log, whose destination and level can be changed while it runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use env_logger::{Builder, Logger, Target};
use log::{LevelFilter, Log, Metadata, Record};
use rustix::fs::OFlags;
use sys::forbidden_call::{self, Destination};

static LOG: OnceLock<Switch> = OnceLock::new();

/// How to log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// What is logged at least.
    pub level: LevelFilter,
    /// Only messages of this module, if any.
    pub module: Option<String>,
    /// Whether each line says where in the source it comes from.
    pub show_origin: bool,
}

/// The logger behind the `log` crate's macros: passes records on to the present one.
struct Switch {
    current: RwLock<Arc<Logger>>,
    settings: RwLock<LogSettings>,
    /// Where it goes now; `None` is standard error.
    file: RwLock<Option<Arc<File>>>,
}

/// Starts logging to `path`, or to standard error.
///
/// # Errors
/// When the file can't be opened.
///
/// # Panics
/// When called twice.
pub fn start(settings: LogSettings, path: Option<&Path>) -> io::Result<()> {
    let file = path.map(open).transpose()?.map(Arc::new);
    log::set_max_level(settings.level);
    tell_last_words(file.as_deref());
    let switch = Switch {
        current: RwLock::new(Arc::new(build(&settings, file.as_ref()))),
        settings: RwLock::new(settings),
        file: RwLock::new(file),
    };
    let switch = LOG.get_or_init(|| switch);
    log::set_logger(switch).expect("the log is started once");
    Ok(())
}

/// Changes what is logged and, if there is a `path`, where to.
///
/// # Errors
/// When the file can't be opened; nothing has changed then.
pub fn reconfigure(path: Option<&Path>, change: impl FnOnce(&mut LogSettings)) -> io::Result<()> {
    let Some(switch) = LOG.get() else { return Ok(()) };
    let opened = path.map(open).transpose()?.map(Arc::new);
    let mut file = switch.file.write().unwrap_or_else(PoisonError::into_inner);
    let mut settings = switch.settings.write().unwrap_or_else(PoisonError::into_inner);
    if opened.is_some() {
        tell_last_words(opened.as_deref());
        *file = opened;
    }
    change(&mut settings);
    let logger = Arc::new(build(&settings, file.as_ref()));
    *switch.current.write().unwrap_or_else(PoisonError::into_inner) = logger;
    log::set_max_level(settings.level);
    Ok(())
}

/// Opens a file or a named pipe to append to. A pipe that nobody reads doesn't hold up whoever
/// logs: what it can't take is lost.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or_default();
    // Reading as well, so that a pipe can be opened before its reader comes.
    OpenOptions::new().read(true).append(true).create(true).custom_flags(flags).open(path)
}

/// Has a forbidden system call logged to `file`, too, which stays open until the next call.
fn tell_last_words(file: Option<&File>) {
    forbidden_call::tell(Destination::Log, file.map(File::as_fd));
}

fn build(settings: &LogSettings, file: Option<&Arc<File>>) -> Logger {
    let mut builder = Builder::new();
    match &settings.module {
        Some(module) => builder.filter_module(module, settings.level),
        None => builder.filter_level(settings.level),
    };
    builder.format_source_path(settings.show_origin).format_line_number(settings.show_origin);
    if let Some(file) = file {
        builder.target(Target::Pipe(Box::new(Shared(Arc::clone(file)))));
    }
    builder.build()
}

/// A file that several loggers write to.
struct Shared(Arc<File>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

impl Switch {
    fn current(&self) -> Arc<Logger> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.current().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.current().log(record);
    }

    fn flush(&self) {
        self.current().flush();
    }
}
