//! Extended attributes: a guest has its own, and no part in what the host's kernel makes of others.

use std::ffi::CStr;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::FileServer;
use super::host::ByFd;
use super::owners::OWN_PREFIX;
use crate::virtio::fs::message::Arguments;
use crate::virtio::fs::protocol::{GetxattrIn, GetxattrOut, InHeader, ROOT, SetxattrIn};

/// Attributes that have no meaning to any kernel.
const OWN: &[u8] = b"user.";

/// What a program may do that root alone can do otherwise: read only, for the guest would give it to
/// programs of the host's.
const CAPABILITIES: &[u8] = b"security.capability";

/// The largest attribute, and list of names, in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 64 << 10;

impl FileServer {
    pub(super) fn get_xattr(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let GetxattrIn { size, .. } = arguments.take()?;
        let name = arguments.string()?;
        if !is_own(name) && name.to_bytes() != CAPABILITIES {
            return Err(Errno::OPNOTSUPP);
        }
        let path = self.xattr_path(header.nodeid)?;
        let mut value = vec![0; MAX_BYTES];
        let len = getxattr(path.path(), name, &mut value[..])?;
        self.put_xattr(size, value.get(..len).unwrap_or_default())
    }

    pub(super) fn list_xattrs(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let GetxattrIn { size, .. } = arguments.take()?;
        let path = self.xattr_path(header.nodeid)?;
        let mut names = vec![0; MAX_BYTES];
        let len = listxattr(path.path(), &mut names[..])?;
        let names = names.get(..len).unwrap_or_default();
        let own: Vec<u8> = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| is_guests(name))
            .flatten()
            .copied()
            .collect();
        self.put_xattr(size, &own)
    }

    /// Answers with a value, or with its length if the guest asks for that only.
    fn put_xattr(&mut self, size: u32, value: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
        if size == 0 {
            self.put(&GetxattrOut { size: len, padding: 0 });
        } else if len > size {
            return Err(Errno::RANGE);
        } else {
            self.out.extend_from_slice(value);
        }
        Ok(())
    }

    pub(super) fn set_xattr(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let SetxattrIn { size, flags } = arguments.take()?;
        let name = arguments.string()?;
        let value = arguments.bytes(size)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let path = self.writable_xattr_path(header.nodeid, name)?;
        setxattr(path.path(), name, value, flags)
    }

    pub(super) fn remove_xattr(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let name = arguments.string()?;
        let path = self.writable_xattr_path(header.nodeid, name)?;
        removexattr(path.path(), name)
    }

    fn xattr_path(&mut self, id: u64) -> Result<ByFd, Errno> {
        if id == ROOT {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(ByFd::new(&self.nodes.get(id)?.fd))
    }

    fn writable_xattr_path(&mut self, id: u64, name: &CStr) -> Result<ByFd, Errno> {
        let file = self.writable(id)?;
        if is_own(name) { Ok(ByFd::new(&file.fd)) } else { Err(Errno::OPNOTSUPP) }
    }
}

fn is_own(name: &CStr) -> bool {
    is_guests(name.to_bytes())
}

fn is_guests(name: &[u8]) -> bool {
    name.starts_with(OWN) && !name.starts_with(OWN_PREFIX)
}
