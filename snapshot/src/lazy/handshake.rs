//! What VMM and page fault handler say to each other: one message, one way.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Longest table that is read: some hundred bytes a region.
const MAX_TABLE_BYTES: usize = 64 << 10;

/// Where a region of guest memory is in the VMM, and where its content is in the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRegionUffdMapping {
    /// The VMM's address of its first byte.
    pub base_host_virt_addr: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Offset of its content in the memory file, in bytes.
    pub offset: u64,
    /// Size of the pages that back it, in bytes.
    pub page_size: u64,
    /// The same, also in bytes, under a name that older handlers know.
    #[serde(default)]
    pub page_size_kib: u64,
}

impl GuestRegionUffdMapping {
    /// Describes `size` bytes at `base`, whose content begins at `offset`.
    pub fn new(base: u64, size: u64, offset: u64, page_size: u64) -> Self {
        Self { base_host_virt_addr: base, size, offset, page_size, page_size_kib: page_size }
    }
}

/// Sends the table and the userfaultfd.
///
/// # Errors
/// What the socket says.
pub fn send(
    stream: &UnixStream,
    mappings: &[GuestRegionUffdMapping],
    uffd: BorrowedFd<'_>,
) -> io::Result<()> {
    let table = serde_json::to_vec(mappings)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [uffd];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(stream, &[IoSlice::new(&table)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    io::Write::write_all(&mut &*stream, table.get(sent..).unwrap_or_default())
}

/// Receives the table and the userfaultfd. Set a read timeout on a socket whose peer isn't trusted
/// to send.
///
/// # Errors
/// What the socket says; [`io::ErrorKind::InvalidData`] when what comes isn't a table with one
/// descriptor.
pub fn receive(stream: &UnixStream) -> io::Result<(Vec<GuestRegionUffdMapping>, OwnedFd)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut table = Vec::new();
    let mut uffd = None;
    let mut buffer = vec![0; MAX_TABLE_BYTES];
    loop {
        let len = receive_part(stream, &mut buffer, &mut uffd)?;
        if len == 0 {
            return Err(invalid("the table of regions is cut off"));
        }
        table.extend_from_slice(buffer.get(..len).unwrap_or_default());
        match serde_json::from_slice(&table) {
            Ok(mappings) => {
                let uffd = uffd.ok_or_else(|| invalid("no userfaultfd came with the table"))?;
                return Ok((mappings, uffd));
            }
            // There is more to come.
            Err(error) if error.is_eof() && table.len() < MAX_TABLE_BYTES => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

fn receive_part(
    stream: &UnixStream,
    buffer: &mut [u8],
    uffd: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [IoSliceMut::new(buffer)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(stream, &mut vectors, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // More than one are closed.
            for descriptor in descriptors {
                uffd.get_or_insert(descriptor);
            }
        }
    }
    Ok(received.bytes)
}
