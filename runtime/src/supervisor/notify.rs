//! Changes that are made on the host to what a container shares: the guest's kernel doesn't see
//! them, so they're watched here and told to the agent, for the container's own watchers.
//!
//! What the agent does to show a change is a change of times or attributes here, too. A file that's
//! found as it was when it was told of last isn't told of again: that ends the echo.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use agent_proto::{Client, FileChange, FileChangeKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::RuntimeError;
use crate::error::system;

/// The most directories that are watched for a container: the rest of a larger tree goes
/// unwatched, with a warning.
const MAX_WATCHES: usize = 8192;

/// The most files whose state is remembered, and changes that are told at once.
const MAX_SEEN: usize = 16_384;
const MAX_BATCH: usize = 256;

/// How long after a change others may join it, in milliseconds: a file that's being written changes
/// many times.
const GATHER_MS: i64 = 20;

/// Tells an agent of changes, until dropped.
#[derive(Debug)]
pub(super) struct ChangeWatch {
    client: Client,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ChangeWatch {
    /// Watches these directories and files, each by its share's number.
    pub(super) fn start(shares: Vec<(u32, PathBuf)>, client: Client) -> Result<Self, RuntimeError> {
        let failed = || system("watch shared files");
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed()(errno.into()))?;
        let stop = Arc::new(stop);
        let (theirs, agent) = (Arc::clone(&stop), client.clone());
        let mut trees = Trees::open().map_err(failed())?;
        let work = move || {
            for (share, path) in shares {
                trees.add(&Place { share, path: String::new(), on_host: path });
            }
            while let Ok(true) = trees.wait(&theirs) {
                let changes = trees.changes();
                for batch in changes.chunks(MAX_BATCH) {
                    if let Err(error) = agent.notify(batch.to_vec()) {
                        log::debug!("the guest isn't told of changes: {error}");
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("changes".to_owned()).spawn(work);
        Ok(Self { client, stop, thread: Some(thread.map_err(failed())?) })
    }
}

impl Drop for ChangeWatch {
    fn drop(&mut self) {
        // It fails only when it's readable already.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        // It may wait for an answer.
        self.client.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of changes panicked");
        }
    }
}

/// A directory or file in a share.
#[derive(Clone, Debug)]
struct Place {
    share: u32,
    /// Below the share's top; empty for that.
    path: String,
    on_host: PathBuf,
}

/// What a file is like: if it's the same, nothing has happened to it that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
}

/// Trees of directories, watched.
struct Trees {
    inotify: OwnedFd,
    watches: HashMap<i32, Place>,
    seen: HashMap<(u32, String), Option<Look>>,
    is_full: bool,
}

impl Trees {
    fn open() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watches: HashMap::new(), seen: HashMap::new(), is_full: false })
    }

    /// Watches a tree, without following links.
    fn add(&mut self, top: &Place) {
        let mut queue = VecDeque::from([top.clone()]);
        while let Some(place) = queue.pop_front() {
            if self.watches.len() >= MAX_WATCHES {
                if !std::mem::replace(&mut self.is_full, true) {
                    log::warn!("changes in more than {MAX_WATCHES} directories aren't seen");
                }
                return;
            }
            let wanted = WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DONT_FOLLOW;
            match inotify::add_watch(&self.inotify, &place.on_host, wanted) {
                Ok(number) => drop(self.watches.insert(number, place.clone())),
                Err(errno) => {
                    log::debug!("{} isn't watched: {errno}", place.on_host.display());
                    continue;
                }
            }
            // What isn't a directory has no entries.
            for entry in fs::read_dir(&place.on_host).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let Some(child) = place.child(&entry.file_name()).filter(|_| is_dir) {
                    queue.push_back(child);
                }
            }
        }
    }

    /// Waits for changes, and a moment longer for those that belong together; false at the end.
    fn wait(&self, stop: &OwnedFd) -> io::Result<bool> {
        let poll_both = |timeout: Option<&Timespec>| loop {
            let mut sources =
                [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut sources, timeout) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(io::Error::from(errno)),
            }
            let [_, stop] = &sources;
            return Ok(stop.revents().is_empty());
        };
        if !poll_both(None)? {
            return Ok(false);
        }
        let gather = Timespec { tv_sec: 0, tv_nsec: GATHER_MS * 1_000_000 };
        // Only the end cuts it short: what comes meanwhile is read together.
        match poll(&mut [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)], Some(&gather)) {
            Ok(ready) => Ok(ready == 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What has changed, each file once.
    fn changes(&mut self) -> Vec<FileChange> {
        let mut order = Vec::new();
        let mut kinds: HashMap<(u32, String), (FileChangeKind, PathBuf)> = HashMap::new();
        for (number, flags, name) in self.read() {
            if flags.contains(ReadFlags::IGNORED) {
                self.watches.remove(&number);
                continue;
            }
            let Some(dir) = self.watches.get(&number) else { continue };
            let place = match &name {
                Some(name) => dir.child(name),
                None => Some(dir.clone()),
            };
            let (Some(place), Some(kind)) = (place, kind_of(flags)) else { continue };
            let is_new_dir = kind == FileChangeKind::Created && flags.contains(ReadFlags::ISDIR);
            if is_new_dir {
                self.add(&place);
            }
            let key = (place.share, place.path.clone());
            if !kinds.contains_key(&key) {
                order.push(key.clone());
            }
            // A file that's there after all is new, whatever else happened to it.
            let earlier = kinds.get(&key).map(|(kind, _)| *kind);
            let kind = match (earlier, kind) {
                (
                    Some(FileChangeKind::Created),
                    FileChangeKind::Modified | FileChangeKind::Attributes,
                ) => FileChangeKind::Created,
                (Some(FileChangeKind::Modified), FileChangeKind::Attributes) => {
                    FileChangeKind::Modified
                }
                (_, kind) => kind,
            };
            kinds.insert(key, (kind, place.on_host));
        }
        order.into_iter().filter_map(|key| self.told(key, &mut kinds)).collect()
    }

    /// A change, unless the file is as it was when it was told of last.
    fn told(
        &mut self,
        key: (u32, String),
        kinds: &mut HashMap<(u32, String), (FileChangeKind, PathBuf)>,
    ) -> Option<FileChange> {
        let (kind, on_host) = kinds.remove(&key)?;
        let look = Look::at(&on_host);
        if self.seen.get(&key) == Some(&look) {
            return None;
        }
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(key.clone(), look);
        let (share, path) = key;
        Some(FileChange { share, path, kind })
    }

    fn read(&self) -> Vec<(i32, ReadFlags, Option<std::ffi::OsString>)> {
        use std::os::unix::ffi::OsStrExt;
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        // Until there are no more for now.
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned());
            events.push((event.wd(), event.events(), name));
            if events.len() >= MAX_SEEN {
                break;
            }
        }
        events
    }
}

impl Place {
    /// An entry of the directory; none if its name can't be told to the agent.
    fn child(&self, name: &std::ffi::OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let path =
            if self.path.is_empty() { text.to_owned() } else { format!("{}/{text}", self.path) };
        Some(Self { share: self.share, path, on_host: self.on_host.join(name) })
    }
}

impl Look {
    /// None for what isn't there.
    fn at(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn kind_of(flags: ReadFlags) -> Option<FileChangeKind> {
    let any = |wanted| flags.intersects(wanted);
    if any(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        Some(FileChangeKind::Deleted)
    } else if any(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        Some(FileChangeKind::Created)
    } else if any(ReadFlags::MODIFY) {
        Some(FileChangeKind::Modified)
    } else if any(ReadFlags::ATTRIB) {
        Some(FileChangeKind::Attributes)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};

    fn watched() -> (tempfile::TempDir, Trees) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "a").unwrap();
        let mut trees = Trees::open().unwrap();
        trees.add(&Place { share: 3, path: String::new(), on_host: dir.path().to_owned() });
        (dir, trees)
    }

    fn told(trees: &mut Trees) -> Vec<(String, FileChangeKind)> {
        trees
            .changes()
            .into_iter()
            .map(|change| {
                assert_eq!(change.share, 3);
                (change.path, change.kind)
            })
            .collect()
    }

    #[test]
    fn changes_are_told_by_path_and_once_each() {
        let (dir, mut trees) = watched();
        fs::write(dir.path().join("sub/file"), "bc").unwrap();
        fs::write(dir.path().join("new"), "x").unwrap();
        let mut changes = told(&mut trees);
        changes.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [("new", FileChangeKind::Created), ("sub/file", FileChangeKind::Modified)];
        assert_eq!(changes, expected.map(|(path, kind)| (path.to_owned(), kind)));
        fs::remove_file(dir.path().join("new")).unwrap();
        assert_eq!(told(&mut trees), [("new".to_owned(), FileChangeKind::Deleted)]);
    }

    #[test]
    fn echo_of_what_the_agent_does_isnt_told_again() {
        let (dir, mut trees) = watched();
        let path = dir.path().join("sub/file");
        fs::write(&path, "bc").unwrap();
        assert_eq!(told(&mut trees).len(), 1);
        let file = File::options().write(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        assert_eq!(told(&mut trees), []);
        fs::write(&path, "other").unwrap();
        assert_eq!(told(&mut trees).len(), 1);
    }

    #[test]
    fn directories_that_come_later_are_watched_and_links_arent_followed() {
        let (dir, mut trees) = watched();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("later")).unwrap();
        assert_eq!(told(&mut trees).len(), 2);
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::write(dir.path().join("later/file"), "x").unwrap();
        assert_eq!(told(&mut trees), [("later/file".to_owned(), FileChangeKind::Created)]);
    }

    #[test]
    fn watch_ends_when_its_told_to() {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (dir, trees) = watched();
        fs::write(dir.path().join("x"), "x").unwrap();
        assert!(trees.wait(&stop).unwrap());
        rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
        assert!(!trees.wait(&stop).unwrap());
    }
}
