//! Giving up privileges.

use rustix::fs::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::capabilities;
use crate::fault::{Context, Result};
use crate::users::Identity;

/// Gives the process's user its streams, so that it can open `/dev/stdout`.
pub(super) fn own_stdio(identity: &Identity) {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        // The null device is everyone's.
        let is_null =
            rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3));
        if !is_null {
            // What can't be owned is used as it is.
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(identity.uid)), None);
        }
    }
}

/// Becomes the user, with at most the capabilities of `set`.
///
/// The bounding set is what holds: root's programs get it anew when they're executed. Others get
/// none, as by Docker. Nothing is inheritable or ambient.
pub(super) fn become_user(
    identity: &Identity,
    set: CapabilitySet,
    no_new_privileges: bool,
) -> Result<()> {
    for number in 0..capabilities::all().bits().count_ones() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        let known = rustix::thread::capability_is_in_bounding_set(capability).is_ok();
        if known && !set.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .internal("cannot drop a capability")?;
        }
    }
    rustix::thread::set_keep_capabilities(true).internal("cannot keep capabilities")?;
    let groups: Vec<Gid> = identity.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    rustix::thread::set_thread_groups(&groups).internal("cannot set the groups")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).internal("cannot become the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).internal("cannot become the user")?;
    rustix::thread::set_keep_capabilities(false).internal("cannot keep capabilities")?;
    let permitted = rustix::thread::capabilities(None)
        .internal("cannot read the capabilities")?
        .permitted
        .intersection(set);
    let sets =
        CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).internal("cannot set the capabilities")?;
    // Dropping what's inheritable has dropped what's ambient.
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).internal("cannot give up new privileges")?;
    }
    Ok(())
}
