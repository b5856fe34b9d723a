//! The file server: answers each request at once, by calls on the host's file system.
//!
//! # What a guest can reach
//! What is in a share's directory tree, and the file systems mounted there. It names files by
//! numbers that it was given ([`nodes`]), open files by handles that it was given, and what is in a
//! directory by one name at a time, which is looked up in that open directory and never followed
//! ([`host`]): links are the guest's own affair. So there is no path that could lead outside, and
//! none that somebody could bend while it's resolved.
//!
//! # Who may do what
//! The guest's kernel checks permissions, as on its other file systems. What the server adds:
//! nothing in a read-only share changes; device nodes aren't made; of extended attributes a guest
//! has its own (`user.`) and may read a file's capabilities. As root, new files belong to whoever
//! made them in the guest. Otherwise they belong to the VMM's user, who is root in the guest's eyes,
//! and whom the guest gives them to is noted with them ([`owners`]).
//!
//! # How soon the guest sees what the host changes
//! It may rely for a second ([`VALID_SECONDS`]) on a name or on attributes: often enough that a
//! tree can be walked without a request per step, and soon enough for people. An absence it may not
//! rely on. What it cached of a file's content it drops when it opens the file and when it learns of
//! another size or mtime; a request that changes attributes, or `statx` with `AT_STATX_FORCE_SYNC`,
//! has it learn at once.

mod attributes;
mod directories;
mod entries;
mod files;
mod handles;
mod host;
mod nodes;
mod owners;
mod xattrs;

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;
use sys::guest_io::GuestIo;
use sys::memory::GuestRam;
use zerocopy::IntoBytes;

use self::handles::Handles;
use self::host::Metadata;
use self::nodes::{File, Nodes};
pub(super) use self::owners::Owners;
use super::message::{self, Arguments, IN_HEADER};
use super::protocol::{
    BatchForgetIn, ForgetIn, ForgetOne, InHeader, InitIn, InitOut, MAJOR, MINOR, OLDEST_MINOR,
    ROOT, feature, opcode,
};
use crate::log_limit::LogLimit;
use crate::virtio::ChainBuffers;

/// How long a guest may rely on names and attributes, in seconds.
const VALID_SECONDS: u64 = 1;

/// The most data that one request moves, in bytes.
const MAX_IO: u32 = 1 << 20;

/// The same in the guest's pages.
const MAX_IO_PAGES: u16 = 256;

/// The longest request without its data, in bytes: the largest extended attribute, with its name.
const MAX_ARGUMENTS: u64 = 72 << 10;

/// How many requests a guest has under way in the background, and at how many it thinks of holding
/// back.
const BACKGROUND: (u16, u16) = (128, 96);

/// A directory, or a single file, of the host's.
pub(super) struct Share {
    /// What it's called in the guest's root directory.
    pub(super) name: String,
    /// Refers to where it starts.
    pub(super) root: OwnedFd,
    pub(super) read_only: bool,
}

/// A share whose start is a node.
struct Entry {
    name: String,
    read_only: bool,
}

/// What became of a request.
enum Outcome {
    /// The driver expects nothing.
    Silent,
    /// The answer is what was put together.
    Answer,
    /// So many bytes are in the driver's buffers already.
    Placed(u64),
}

/// Serves one mount after the other; only one is there at a time.
pub(super) struct FileServer {
    shares: Vec<Entry>,
    roots: Vec<(Arc<OwnedFd>, Metadata)>,
    owners: Owners,
    max_open: usize,
    nodes: Nodes,
    handles: Handles,
    /// The file systems seen so far.
    devices: Vec<u64>,
    is_initialised: bool,
    /// The body of the answer that is put together.
    out: Vec<u8>,
    /// What a request says after its header.
    arguments: Vec<u8>,
}

impl FileServer {
    /// Creates a server of `shares` that keeps at most about `max_open` files open.
    ///
    /// # Errors
    /// When the host can't tell what a share's root is.
    pub(super) fn new(shares: Vec<Share>, owners: Owners, max_open: usize) -> Result<Self, Errno> {
        let (mut entries, mut roots) = (Vec::new(), Vec::new());
        for Share { name, root, read_only } in shares {
            let metadata = host::metadata(&root)?;
            roots.push((Arc::new(root), metadata));
            entries.push(Entry { name, read_only });
        }
        Ok(Self {
            nodes: Nodes::new(&roots, max_open / 2),
            handles: Handles::new(max_open / 2),
            shares: entries,
            roots,
            owners,
            max_open,
            devices: Vec::new(),
            is_initialised: false,
            out: Vec::new(),
            arguments: Vec::new(),
        })
    }

    /// Closes and forgets everything: the guest has unmounted, or its driver is gone.
    pub(super) fn clear(&mut self) {
        self.nodes = Nodes::new(&self.roots, self.max_open / 2);
        self.handles = Handles::new(self.max_open / 2);
        self.is_initialised = false;
    }

    /// Carries a request out and writes its answer; returns the answer's length.
    pub(super) fn serve(
        &mut self,
        memory: &GuestRam,
        io: &mut GuestIo,
        buffers: &ChainBuffers,
    ) -> u32 {
        static LOG: LogLimit = LogLimit::new();
        let Some(header) = message::header(memory, buffers) else {
            LOG.warn(format_args!("a file system's request has no header"));
            return 0;
        };
        self.out.clear();
        let outcome = self.read_arguments(memory, buffers, &header).and_then(|arguments| {
            let result = self.dispatch(&header, &arguments, io, buffers);
            self.arguments = arguments;
            result
        });
        let outcome = match outcome {
            Ok(Outcome::Silent) => return 0,
            Ok(Outcome::Answer) => Ok((self.out.as_slice(), 0)),
            Ok(Outcome::Placed(len)) => Ok((&[][..], len)),
            Err(errno) => Err(errno),
        };
        message::answer(memory, buffers, header.unique, outcome)
    }

    /// Copies what follows the header; of a write, all but the data.
    fn read_arguments(
        &mut self,
        memory: &GuestRam,
        buffers: &ChainBuffers,
        header: &InHeader,
    ) -> Result<Vec<u8>, Errno> {
        let len = message::len(&buffers.readable);
        if u64::from(header.len) != len {
            return Err(Errno::INVAL);
        }
        let mut wanted = len.saturating_sub(IN_HEADER);
        if header.opcode == opcode::WRITE {
            wanted = wanted.min(files::WRITE_IN);
        }
        if wanted > MAX_ARGUMENTS {
            return Err(Errno::TOOBIG);
        }
        let mut arguments = std::mem::take(&mut self.arguments);
        arguments.clear();
        message::copy_from(memory, &buffers.readable, IN_HEADER, wanted, &mut arguments)?;
        Ok(arguments)
    }

    fn dispatch(
        &mut self,
        header: &InHeader,
        arguments: &[u8],
        io: &mut GuestIo,
        buffers: &ChainBuffers,
    ) -> Result<Outcome, Errno> {
        let arguments = &mut Arguments(arguments);
        match header.opcode {
            opcode::FORGET => return Ok(self.forget(header, arguments)),
            opcode::BATCH_FORGET => return Ok(self.batch_forget(arguments)),
            // Requests are answered before anybody can interrupt them.
            opcode::INTERRUPT => return Ok(Outcome::Silent),
            opcode::INIT => self.init(arguments)?,
            _ if !self.is_initialised => return Err(Errno::IO),
            opcode::DESTROY => self.clear(),
            opcode::READ => return self.read(header, arguments, io, buffers),
            opcode::WRITE => self.write(header, arguments, io, buffers)?,
            opcode::READDIR | opcode::READDIRPLUS => {
                let room = message::len(&buffers.writable).saturating_sub(message::OUT_HEADER);
                self.read_directory(header, arguments, room)?;
            }
            _ => self.dispatch_plain(header, arguments)?,
        }
        Ok(Outcome::Answer)
    }

    /// Carries out what needs no more than its arguments.
    fn dispatch_plain(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        match header.opcode {
            opcode::LOOKUP => self.lookup(header, arguments),
            opcode::GETATTR => self.get_attributes(header, arguments),
            opcode::SETATTR => self.set_attributes(header, arguments),
            opcode::STATFS => self.stat_fs(header),
            opcode::READLINK => self.read_link(header),
            opcode::SYMLINK => self.make_symlink(header, arguments),
            opcode::MKNOD => self.make_node(header, arguments),
            opcode::MKDIR => self.make_directory(header, arguments),
            opcode::UNLINK => self.remove(header, arguments, false),
            opcode::RMDIR => self.remove(header, arguments, true),
            opcode::RENAME | opcode::RENAME2 => self.rename(header, arguments),
            opcode::LINK => self.link(header, arguments),
            opcode::OPEN => self.open(header, arguments),
            opcode::CREATE => self.create(header, arguments),
            opcode::OPENDIR => self.open_directory(header),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(header, arguments),
            // Written data is in the host's page cache.
            opcode::FLUSH => Ok(()),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(header, arguments),
            opcode::FALLOCATE => self.allocate(header, arguments),
            opcode::LSEEK => self.seek(header, arguments),
            opcode::COPY_FILE_RANGE => self.copy_range(header, arguments),
            opcode::GETXATTR => self.get_xattr(header, arguments),
            opcode::LISTXATTR => self.list_xattrs(header, arguments),
            opcode::SETXATTR => self.set_xattr(header, arguments),
            opcode::REMOVEXATTR => self.remove_xattr(header, arguments),
            // Locks are the guest's own; ACCESS isn't asked of a server whose client checks
            // permissions. A driver doesn't ask again for what isn't there.
            _ => Err(Errno::NOSYS),
        }
    }

    /// Agrees on a version and on features; what an earlier mount left is gone.
    fn init(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Errno> {
        let InitIn { major, minor, max_readahead, flags } = arguments.take()?;
        if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        self.clear();
        let mut out = InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() };
        // A client of the next major version asks again, in this one's terms.
        if major == MAJOR {
            let wanted = feature::ASYNC_READ
                | feature::ATOMIC_O_TRUNC
                | feature::BIG_WRITES
                | feature::AUTO_INVAL_DATA
                | feature::DO_READDIRPLUS
                | feature::READDIRPLUS_AUTO
                | feature::ASYNC_DIO
                | feature::PARALLEL_DIROPS
                | feature::MAX_PAGES
                | feature::CACHE_SYMLINKS
                | feature::HANDLE_KILLPRIV_V2;
            (out.max_background, out.congestion_threshold) = BACKGROUND;
            out.flags = flags & wanted;
            out.max_readahead = max_readahead.min(MAX_IO);
            out.max_write = MAX_IO;
            out.max_pages = MAX_IO_PAGES;
            out.time_gran = 1;
            self.is_initialised = true;
        }
        self.put(&out);
        Ok(())
    }

    fn forget(&mut self, header: &InHeader, arguments: &mut Arguments<'_>) -> Outcome {
        if let Ok(ForgetIn { nlookup }) = arguments.take() {
            self.nodes.forget(header.nodeid, nlookup);
        }
        Outcome::Silent
    }

    fn batch_forget(&mut self, arguments: &mut Arguments<'_>) -> Outcome {
        let count = arguments.take().map_or(0, |batch: BatchForgetIn| batch.count);
        for _ in 0..count {
            let Ok(ForgetOne { nodeid, nlookup }) = arguments.take() else { break };
            self.nodes.forget(nodeid, nlookup);
        }
        Outcome::Silent
    }

    /// Appends a message to the answer.
    fn put(&mut self, message: &(impl IntoBytes + zerocopy::Immutable)) {
        self.out.extend_from_slice(message.as_bytes());
    }

    /// Returns the file of this number, which the guest may change.
    fn writable(&mut self, id: u64) -> Result<File, Errno> {
        if id == ROOT {
            return Err(Errno::ROFS);
        }
        let file = self.nodes.get(id)?;
        self.check_writable(file.share)?;
        Ok(file)
    }

    /// Returns the directory of this number, in which the guest may change names.
    fn writable_directory(&mut self, id: u64) -> Result<File, Errno> {
        let file = self.writable(id)?;
        if file.kind == FileType::Directory { Ok(file) } else { Err(Errno::NOTDIR) }
    }

    fn check_writable(&self, share: usize) -> Result<(), Errno> {
        match self.shares.get(share) {
            Some(share) if !share.read_only => Ok(()),
            _ => Err(Errno::ROFS),
        }
    }

    /// Finds the share of this name.
    fn share(&self, name: &CStr) -> Option<usize> {
        self.shares.iter().position(|share| share.name.as_bytes() == name.to_bytes())
    }
}
