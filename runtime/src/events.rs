//! What happened, as lines of a file that all processes append to.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::RuntimeError;
use crate::error::file;
use crate::files::LockFile;
use crate::logs::{inode, newer_files, read_bounded, rotated};
use crate::options::{EngineEvent, EventOptions};
use crate::watch::DirWatch;

/// The size at which the file is put aside, in bytes: two of them are kept.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What events can be chosen by.
const FILTERS: [&str; 7] = ["container", "event", "image", "label", "network", "type", "volume"];

/// The file of one data root.
#[derive(Clone, Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
}

/// Events; reading one blocks until it happens.
#[derive(Debug)]
pub struct EventReader {
    log: EventLog,
    options: EventOptions,
    /// What's read next, the oldest first; the last one is the current file.
    files: VecDeque<BufReader<File>>,
    /// A line whose end isn't written yet.
    partial: Vec<u8>,
    /// Tells of changes; none when only what has happened is wanted.
    watch: Option<DirWatch>,
}

impl EventLog {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Appends an event.
    pub(crate) fn append(&self, event: &EngineEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let _lock = self.lock()?;
        let mut file = self.open_current()?;
        let size = file.metadata()?.len();
        if size >= MAX_FILE_BYTES {
            fs::rename(&self.path, rotated(&self.path, 1))?;
            file = self.open_current()?;
        } else if let Some(last) = size.checked_sub(1) {
            // A crash has cut the last line off: this one would be lost with it.
            let mut byte = [0];
            file.read_exact_at(&mut byte, last)?;
            if byte != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        file.write_all(&line)
    }

    /// Reads what the options say.
    pub(crate) fn read(&self, options: EventOptions) -> Result<EventReader, RuntimeError> {
        if let Some(name) = options.filters.keys().find(|name| !FILTERS.contains(&name.as_str())) {
            return Err(RuntimeError::invalid(format!("invalid filter {name:?}")));
        }
        let follows = options.until.is_none_or(|until| until > SystemTime::now());
        let dir = self.path.parent().unwrap_or_else(|| Path::new("/"));
        // Before the file is looked at: nothing is missed between.
        let watch = follows.then(|| DirWatch::open(dir)).transpose()?;
        let _lock = self.lock().map_err(file("lock", &self.path))?;
        self.open_current().map_err(file("open", &self.path))?;
        let mut files: VecDeque<_> = newer_files(&self.path, None)?.into();
        if options.since.is_none() {
            files = files.pop_back().into_iter().collect();
            if let Some(current) = files.front_mut() {
                current.seek(SeekFrom::End(0)).map_err(file("read", &self.path))?;
            }
        }
        let log = self.clone();
        Ok(EventReader { log, options, files, partial: Vec::new(), watch })
    }

    fn lock(&self) -> io::Result<LockFile> {
        LockFile::take(&self.path.with_extension("lock"))
    }

    fn open_current(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&self.path)
    }
}

impl EventReader {
    /// The next event that fits of those that are there.
    fn read_event(&mut self) -> Result<Option<EngineEvent>, RuntimeError> {
        while let Some(current) = self.files.front_mut() {
            let whole =
                read_bounded(current, &mut self.partial).map_err(file("read", &self.log.path))?;
            if whole {
                // What's no event is what a crash has left.
                let event = serde_json::from_slice::<EngineEvent>(&self.partial).ok();
                self.partial.clear();
                if let Some(event) = event.filter(|event| self.fits(event)) {
                    return Ok(Some(event));
                }
            } else if self.files.len() > 1 {
                self.files.pop_front();
                self.partial.clear();
            } else {
                break;
            }
        }
        Ok(None)
    }

    fn fits(&self, event: &EngineEvent) -> bool {
        self.options.since.is_none_or(|since| event.time >= since)
            && self.options.until.is_none_or(|until| event.time <= until)
            && self.options.filters.iter().all(|(name, values)| {
                let fits = |value: &String| fits(event, name, value);
                // A label is one of many, the rest alternatives.
                if name == "label" { values.iter().all(fits) } else { values.iter().any(fits) }
            })
    }

    fn open_successors(&mut self) -> Result<bool, RuntimeError> {
        let path = &self.log.path;
        let current = self.files.back().map(|file| inode(file.get_ref())).transpose();
        let newer = newer_files(path, current.map_err(file("look at", path))?)?;
        let found = !newer.is_empty();
        self.files.extend(newer);
        Ok(found)
    }

    fn advance(&mut self) -> Result<Option<EngineEvent>, RuntimeError> {
        loop {
            if let Some(event) = self.read_event()? {
                return Ok(Some(event));
            }
            let over = self.options.until.is_some_and(|until| SystemTime::now() > until);
            let Some(watch) = self.watch.as_ref().filter(|_| !over) else { return Ok(None) };
            watch.wait(self.options.until)?;
            self.open_successors()?;
        }
    }
}

impl Iterator for EventReader {
    type Item = Result<EngineEvent, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Whether an event has what a filter looks for.
fn fits(event: &EngineEvent, filter: &str, value: &str) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let by_name = || event.id.starts_with(value) || attribute("name") == Some(value);
    match filter {
        // `health_status` is every `health_status: …`.
        "event" => event.action == value || event.action.split(':').next() == Some(value),
        "type" => event.kind == value,
        "image" => attribute("image") == Some(value) || (event.kind == "image" && by_name()),
        "label" => match value.split_once('=') {
            Some((name, wanted)) => attribute(name) == Some(wanted),
            None => event.attributes.contains_key(value),
        },
        kind => event.kind == kind && by_name(),
    }
}

/// An event of now.
pub(crate) fn event(
    kind: &str,
    action: impl Into<String>,
    id: &str,
    attributes: BTreeMap<String, String>,
) -> EngineEvent {
    EngineEvent {
        time: SystemTime::now(),
        kind: kind.to_owned(),
        action: action.into(),
        id: id.to_owned(),
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn log() -> (tempfile::TempDir, EventLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::new(dir.path().join("events.jsonl"));
        (dir, log)
    }

    fn started(id: &str) -> EngineEvent {
        let attributes = BTreeMap::from([("name".to_owned(), format!("name-{id}"))]);
        event("container", "start", id, attributes)
    }

    fn past(log: &EventLog, filters: &[(&str, &str)]) -> Vec<String> {
        let mut options = EventOptions {
            since: Some(SystemTime::UNIX_EPOCH),
            until: Some(SystemTime::now()),
            ..EventOptions::default()
        };
        for (name, value) in filters {
            let values: &mut Vec<String> = options.filters.entry((*name).to_owned()).or_default();
            values.push((*value).to_owned());
        }
        log.read(options).unwrap().map(|event| event.unwrap().id).collect()
    }

    #[test]
    fn past_events_are_chosen_by_filters_and_damage_is_left_out() {
        let (dir, log) = log();
        log.append(&started("abc")).unwrap();
        let mut file =
            OpenOptions::new().append(true).open(dir.path().join("events.jsonl")).unwrap();
        file.write_all(b"no event\n{\"time\":").unwrap();
        log.append(&started("def")).unwrap();
        log.append(&event("volume", "create", "data", BTreeMap::new())).unwrap();
        log.append(&event("container", "health_status: healthy", "abc", BTreeMap::new())).unwrap();
        assert_eq!(past(&log, &[]), ["abc", "def", "data", "abc"]);
        assert_eq!(past(&log, &[("type", "volume")]), ["data"]);
        assert_eq!(past(&log, &[("container", "ab")]), ["abc", "abc"]);
        assert_eq!(past(&log, &[("container", "name-def")]), ["def"]);
        assert_eq!(past(&log, &[("event", "health_status")]), ["abc"]);
        assert_eq!(past(&log, &[("event", "start"), ("container", "abc")]), ["abc"]);
        assert_eq!(past(&log, &[("label", "name=name-abc")]), ["abc"]);
        let filters = BTreeMap::from([("bogus".to_owned(), vec![])]);
        log.read(EventOptions { filters, ..EventOptions::default() }).unwrap_err();
    }

    #[test]
    fn follower_gets_what_happens_and_not_what_happened() {
        let (_dir, log) = log();
        log.append(&started("before")).unwrap();
        let mut reader = log.read(EventOptions::default()).unwrap();
        let writing = std::thread::spawn({
            let log = log.clone();
            move || (0..3).for_each(|number| log.append(&started(&number.to_string())).unwrap())
        });
        for number in 0..3 {
            assert_eq!(reader.next().unwrap().unwrap().id, number.to_string());
        }
        writing.join().unwrap();
    }

    #[test]
    fn reader_ends_when_its_time_is_over() {
        let (_dir, log) = log();
        let until = Some(SystemTime::now() + Duration::from_millis(20));
        let mut reader = log.read(EventOptions { until, ..EventOptions::default() }).unwrap();
        assert!(reader.next().is_none());
    }

    #[test]
    fn file_is_put_aside_when_it_is_full_and_a_reader_goes_on() {
        let (dir, log) = log();
        let path = dir.path().join("events.jsonl");
        log.append(&started("first")).unwrap();
        let mut reader = log.read(EventOptions::default()).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let filler = vec![b'\n'; usize::try_from(MAX_FILE_BYTES).unwrap()];
        file.write_all_at(&filler, file.metadata().unwrap().len()).unwrap();
        log.append(&started("second")).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 1000);
        assert_eq!(past(&log, &[]), ["first", "second"]);
        assert_eq!(reader.next().unwrap().unwrap().id, "second");
    }
}
