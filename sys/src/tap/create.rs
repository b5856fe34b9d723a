//! Making TAP interfaces that outlive whoever makes them.
#![expect(unsafe_code, reason = "TUN/TAP ioctls")]

use super::{TapError, attach_with, check, check_name, refusal};

use vmm_sys_util::ioctl::ioctl_with_val;

/// Creates the persistent TAP `name` of one queue, down and without addresses. It's removed like
/// any interface, by netlink.
///
/// # Errors
/// [`TapError`], naming the interface: [`TapError::NotPermitted`] without CAP_NET_ADMIN,
/// [`TapError::Busy`] if there's one that's in use.
pub fn create_persistent(name: &str) -> Result<(), TapError> {
    check_name(name)?;
    let file = attach_with(name, 0)?.map_err(|error| refusal(name.to_owned(), error))?;
    // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of ours.
    let result = unsafe { ioctl_with_val(&file, libc::TUNSETPERSIST, 1) };
    check(result).map_err(|source| TapError::Request {
        name: name.to_owned(),
        request: "TUNSETPERSIST",
        source,
    })
}
