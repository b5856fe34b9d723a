//! The device from its driver's side: requests over real queues, files on a real file system.

mod access;
mod contents;
mod hostile;
mod life;
mod names;

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::protocol::*;
use super::*;
use crate::virtio::testing::{Buffer, TestQueue, guest_ram};
use sys::memory::GuestRam;

const REQUEST: u64 = 0x10_0000;
const ANSWER: u64 = 0x40_0000;
const ROOM: u32 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted device: the host's directories, and the driver.
struct Rig {
    /// What's shared is in `shared`; `outside` is beside it.
    directory: TempDir,
    memory: GuestRam,
    fs: Fs,
    urgent: TestQueue,
    requests: TestQueue,
    unique: u64,
    uid: u32,
    gid: u32,
}

fn share(name: &str, path: &Path, read_only: bool) -> ShareConfig {
    ShareConfig { name: name.to_owned(), path: path.to_owned(), read_only }
}

fn config(directory: &Path) -> FsConfig {
    let path = directory.join("shared");
    FsConfig {
        tag: "shares".to_owned(),
        shares: vec![share("0", &path, false), share("1", &path, true)],
        max_open_files: 128,
    }
}

/// The number of the writable share's root.
const RW: u64 = 2;
/// The same directory, read-only.
const RO: u64 = 3;

fn tree() -> TempDir {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("shared")).unwrap();
    std::fs::create_dir(directory.path().join("outside")).unwrap();
    std::fs::write(directory.path().join("outside/secret"), "secret").unwrap();
    directory
}

impl Rig {
    fn new() -> Self {
        let directory = tree();
        let fs = Fs::new(&config(directory.path())).unwrap();
        let mut rig = Self::unmounted(directory, fs);
        rig.mount();
        rig
    }

    fn unmounted(directory: TempDir, fs: Fs) -> Self {
        let memory = guest_ram();
        let mut rig = Self {
            directory,
            urgent: TestQueue::at(memory.clone(), 128, 0),
            requests: TestQueue::at(memory.clone(), 512, 0x7000),
            memory,
            fs,
            unique: 0,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        rig.activate();
        rig
    }

    fn activate(&mut self) {
        let queues = vec![self.urgent.device_queue(0), self.requests.device_queue(1)];
        let notifier = self.requests.notifier();
        let memory = self.memory.clone();
        self.fs.activate(Activation { memory, features: 0, queues, notifier }).unwrap();
    }

    fn mount(&mut self) -> InitOut {
        let request = InitIn { major: 7, minor: 41, max_readahead: 1 << 17, flags: u32::MAX };
        let bytes = self.ask(opcode::INIT, 0, &[request.as_bytes()]).unwrap();
        InitOut::read_from_bytes(&bytes).unwrap()
    }

    /// Where something in the writable share is on the host.
    fn host(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("shared").join(name)
    }

    fn header(&mut self, opcode: u32, nodeid: u64, len: usize) -> InHeader {
        self.unique += 1;
        InHeader {
            len: len as u32 + 40,
            opcode,
            unique: self.unique,
            nodeid,
            uid: self.uid,
            gid: self.gid,
            ..InHeader::default()
        }
    }

    /// Sends a request and returns the body of its answer.
    fn ask(&mut self, opcode: u32, nodeid: u64, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        let body = parts.concat();
        let header = self.header(opcode, nodeid, body.len());
        let answer = self.send(&header, &body, ROOM);
        let out = OutHeader::read_from_bytes(&answer[..16]).unwrap();
        assert_eq!((out.unique, out.len as usize), (header.unique, answer.len()));
        if out.error == 0 {
            return Ok(answer[16..].to_vec());
        }
        assert_eq!(answer.len(), 16, "an error with a body");
        Err(Errno::from_raw_os_error(-out.error))
    }

    /// Sends what may not be a request at all, with room for so long an answer; returns that.
    fn send(&mut self, header: &InHeader, body: &[u8], room: u32) -> Vec<u8> {
        self.memory.write_slice(header.as_bytes(), GuestAddress(REQUEST)).unwrap();
        self.memory.write_slice(body, GuestAddress(REQUEST + 0x100)).unwrap();
        let chain = [
            Buffer::readable(REQUEST, 40),
            Buffer::readable(REQUEST + 0x100, body.len() as u32),
            Buffer::writable(ANSWER, room.min(16)),
            Buffer::writable(ANSWER + 16, room.saturating_sub(16)),
        ];
        let written = self.exchange(&chain);
        let mut answer = vec![0; written as usize];
        self.memory.read_slice(&mut answer, GuestAddress(ANSWER)).unwrap();
        answer
    }

    /// Sends a chain and returns how much was written to it.
    fn exchange(&mut self, chain: &[Buffer]) -> u32 {
        let head = self.requests.add_chain(chain);
        self.requests.kick();
        let start = Instant::now();
        loop {
            match self.requests.used()[..] {
                [] => assert!(start.elapsed() < PATIENCE, "no answer"),
                [(used, written)] => {
                    assert_eq!(used, u32::from(head));
                    return written;
                }
                _ => panic!("two answers"),
            }
            std::thread::yield_now();
        }
    }

    fn ask_for<T: FromBytes + KnownLayout + Immutable>(
        &mut self,
        opcode: u32,
        nodeid: u64,
        parts: &[&[u8]],
    ) -> Result<T, Errno> {
        let bytes = self.ask(opcode, nodeid, parts)?;
        Ok(T::read_from_prefix(&bytes).unwrap().0)
    }

    fn lookup(&mut self, parent: u64, name: &CStr) -> Result<EntryOut, Errno> {
        self.ask_for(opcode::LOOKUP, parent, &[name.to_bytes_with_nul()])
    }

    fn attributes(&mut self, node: u64) -> Result<Attr, Errno> {
        let request = GetattrIn::default();
        let out: AttrOut = self.ask_for(opcode::GETATTR, node, &[request.as_bytes()])?;
        Ok(out.attr)
    }

    fn set(&mut self, node: u64, change: SetattrIn) -> Result<Attr, Errno> {
        let out: AttrOut = self.ask_for(opcode::SETATTR, node, &[change.as_bytes()])?;
        Ok(out.attr)
    }

    /// Creates a file for reading and writing; returns its number and its handle.
    fn create(&mut self, parent: u64, name: &CStr, mode: u32) -> Result<(EntryOut, u64), Errno> {
        self.create_with(parent, name, mode, libc_flags::O_RDWR)
    }

    fn create_with(
        &mut self,
        parent: u64,
        name: &CStr,
        mode: u32,
        flags: u32,
    ) -> Result<(EntryOut, u64), Errno> {
        let request = CreateIn { flags, mode, ..CreateIn::default() };
        let name = name.to_bytes_with_nul();
        let bytes = self.ask(opcode::CREATE, parent, &[request.as_bytes(), name])?;
        let (entry, rest) = EntryOut::read_from_prefix(&bytes).unwrap();
        Ok((entry, OpenOut::read_from_bytes(rest).unwrap().fh))
    }

    fn open(&mut self, node: u64, flags: u32) -> Result<u64, Errno> {
        let request = OpenIn { flags, open_flags: 0 };
        let out: OpenOut = self.ask_for(opcode::OPEN, node, &[request.as_bytes()])?;
        Ok(out.fh)
    }

    fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let request = WriteIn { fh, offset, size: data.len() as u32, ..WriteIn::default() };
        let out: WriteOut = self.ask_for(opcode::WRITE, node, &[request.as_bytes(), data])?;
        Ok(out.size)
    }

    fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let request = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.ask(opcode::READ, node, &[request.as_bytes()])
    }

    fn release(&mut self, node: u64, fh: u64) -> Result<(), Errno> {
        let request = ReleaseIn { fh, ..ReleaseIn::default() };
        self.ask(opcode::RELEASE, node, &[request.as_bytes()]).map(drop)
    }

    fn mkdir(&mut self, parent: u64, name: &CStr, mode: u32) -> Result<EntryOut, Errno> {
        let request = MkdirIn { mode, umask: 0 };
        self.ask_for(opcode::MKDIR, parent, &[request.as_bytes(), name.to_bytes_with_nul()])
    }

    fn symlink(&mut self, parent: u64, name: &CStr, target: &CStr) -> Result<EntryOut, Errno> {
        let parts = [name.to_bytes_with_nul(), target.to_bytes_with_nul()];
        self.ask_for(opcode::SYMLINK, parent, &parts)
    }

    fn mknod(&mut self, parent: u64, name: &CStr, mode: u32) -> Result<EntryOut, Errno> {
        let request = MknodIn { mode, rdev: 0x103, ..MknodIn::default() };
        self.ask_for(opcode::MKNOD, parent, &[request.as_bytes(), name.to_bytes_with_nul()])
    }

    fn unlink(&mut self, parent: u64, name: &CStr) -> Result<(), Errno> {
        self.ask(opcode::UNLINK, parent, &[name.to_bytes_with_nul()]).map(drop)
    }

    fn rmdir(&mut self, parent: u64, name: &CStr) -> Result<(), Errno> {
        self.ask(opcode::RMDIR, parent, &[name.to_bytes_with_nul()]).map(drop)
    }

    fn link(&mut self, node: u64, parent: u64, name: &CStr) -> Result<EntryOut, Errno> {
        let request = LinkIn { old_nodeid: node };
        self.ask_for(opcode::LINK, parent, &[request.as_bytes(), name.to_bytes_with_nul()])
    }

    fn rename(
        &mut self,
        (from, old): (u64, &CStr),
        (to, new): (u64, &CStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let request = Rename2In { new_dir: to, flags, padding: 0 };
        let names = [request.as_bytes(), old.to_bytes_with_nul(), new.to_bytes_with_nul()];
        self.ask(opcode::RENAME2, from, &names).map(drop)
    }

    fn forget(&mut self, node: u64, nlookup: u64) {
        let header = self.header(opcode::FORGET, node, 8);
        assert!(self.send(&header, ForgetIn { nlookup }.as_bytes(), 0).is_empty());
    }

    /// Lists a directory by as many requests as buffers of `size` bytes take.
    fn list(&mut self, node: u64, size: u32, plus: bool) -> Result<Vec<Listed>, Errno> {
        let out: OpenOut = self.ask_for(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])?;
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let request = ReadIn { fh: out.fh, offset, size, ..ReadIn::default() };
            let opcode = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
            let bytes = self.ask(opcode, node, &[request.as_bytes()])?;
            assert!(bytes.len() <= size as usize && bytes.len().is_multiple_of(8));
            if bytes.is_empty() {
                break;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let mut entry = None;
                if plus {
                    let (found, after) = EntryOut::read_from_prefix(rest).unwrap();
                    (entry, rest) = (Some(found), after);
                }
                let (dirent, after) = Dirent::read_from_prefix(rest).unwrap();
                let len = dirent.name_len as usize;
                let name = String::from_utf8(after[..len].to_vec()).unwrap();
                rest = &after[len.next_multiple_of(8)..];
                offset = dirent.offset;
                all.push(Listed { name, dirent, entry });
            }
        }
        let request = ReleaseIn { fh: out.fh, ..ReleaseIn::default() };
        self.ask(opcode::RELEASEDIR, node, &[request.as_bytes()])?;
        Ok(all)
    }
}

struct Listed {
    name: String,
    dirent: Dirent,
    entry: Option<EntryOut>,
}

/// What a guest's kernel says on x86_64 and, but for `O_DIRECT`, elsewhere.
mod libc_flags {
    pub(super) const O_RDONLY: u32 = 0;
    pub(super) const O_WRONLY: u32 = 1;
    pub(super) const O_RDWR: u32 = 2;
    pub(super) const O_EXCL: u32 = 0o200;
    pub(super) const O_TRUNC: u32 = 0o1000;
    pub(super) const O_APPEND: u32 = 0o2000;
    pub(super) const S_IFCHR: u32 = 0o020_000;
    pub(super) const S_IFBLK: u32 = 0o060_000;
    pub(super) const S_IFIFO: u32 = 0o010_000;
    pub(super) const S_IFREG: u32 = 0o100_000;
    pub(super) const S_IFSOCK: u32 = 0o140_000;
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
