//! Users and groups by the image's own `/etc/passwd` and `/etc/group`, which may hold anything.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::fault::{AgentError, Context, ErrorKind, Result, fault};

/// The most bytes of a database that are read: more is an attack or a mistake.
const MAX_DATABASE_BYTES: u64 = 16 << 20;

/// The most supplementary groups (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The home directory, `/` when it's not known.
    pub(crate) home: String,
}

/// A line of `/etc/passwd`.
#[derive(Debug, PartialEq, Eq)]
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of `/etc/group`.
#[derive(Debug, PartialEq, Eq)]
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The databases' text; empty when an image has none.
#[derive(Debug, Default)]
pub(crate) struct Databases {
    passwd: String,
    group: String,
}

impl Databases {
    /// Reads the databases below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        Ok(Self {
            passwd: read_bounded(&root.join("etc/passwd"))?,
            group: read_bounded(&root.join("etc/group"))?,
        })
    }

    /// Returns who `spec` (`USER[:GROUP]`) is, with the groups of `more` beside the database's.
    pub(crate) fn identity(&self, spec: &str, more: &[String]) -> Result<Identity> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let mut identity = self.user(if user.is_empty() { "0" } else { user })?;
        // Docker's rule: who says a group gets that one only.
        if let Some(group) = group {
            identity.gid = self.gid(group)?;
            identity.groups.clear();
        }
        for group in more {
            identity.groups.push(self.gid(group)?);
        }
        identity.groups.sort_unstable();
        identity.groups.dedup();
        if identity.groups.len() > MAX_GROUPS {
            return fault(ErrorKind::NoSuchUser, "more groups than a process can have");
        }
        Ok(identity)
    }

    /// Returns the name of a user, for listings.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        self.users().find(|user| user.uid == uid).map_or(uid.to_string(), |user| user.name.into())
    }

    fn user(&self, name_or_number: &str) -> Result<Identity> {
        // A name that looks like a number is one if the database has it, as Docker does it.
        let number = id(name_or_number);
        let by_name = self.users().find(|user| user.name == name_or_number);
        let user = by_name.or_else(|| self.users().find(|user| Some(user.uid) == number));
        match (user, number) {
            (Some(user), _) => Ok(Identity {
                uid: user.uid,
                gid: user.gid,
                groups: self.memberships(user.name),
                home: if user.home.is_empty() { "/".into() } else { user.home.into() },
            }),
            (None, Some(uid)) => Ok(Identity { uid, home: "/".into(), ..Identity::default() }),
            (None, None) => Err(AgentError::new(
                ErrorKind::NoSuchUser,
                format!("unable to find user {name_or_number}: no matching entries in passwd file"),
            )),
        }
    }

    fn gid(&self, name_or_number: &str) -> Result<u32> {
        let by_name = self.groups().find(|group| group.name == name_or_number);
        by_name.map(|group| group.gid).or_else(|| id(name_or_number)).ok_or_else(|| {
            AgentError::new(
                ErrorKind::NoSuchUser,
                format!("unable to find group {name_or_number}: no matching entries in group file"),
            )
        })
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let member = |group: &Group| group.members.split(',').any(|name| name == user);
        self.groups().filter(member).map(|group| group.gid).take(MAX_GROUPS + 1).collect()
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
            let (_comment, home) = (fields.next()?, fields.next().unwrap_or(""));
            (!name.is_empty()).then_some(User { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (gid, members) = (id(fields.next()?)?, fields.next().unwrap_or(""));
            (!name.is_empty()).then_some(Group { name, gid, members })
        })
    }
}

/// Reads a number. `u32::MAX` isn't one: `setresuid(2)` takes it as "unchanged".
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

fn read_bounded(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    // A database that's a device or a pipe would be read for ever.
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(String::new());
    }
    let file = File::open(path).context(ErrorKind::NoSuchUser, what)?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(MAX_DATABASE_BYTES + 1);
    bounded.read_to_end(&mut bytes).context(ErrorKind::NoSuchUser, what)?;
    if bytes.len() as u64 > MAX_DATABASE_BYTES {
        return fault(ErrorKind::NoSuchUser, format!("{} is too long", path.display()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\n\
                     # comment\n::::::\nbroken\nneg:x:-1:5::/:\nhuge:x:4294967295:1::/:\n\
                     overflow:x:99999999999:1::/:\n\
                     www-data:x:33:33::/var/www:/bin/false\n\
                     1000:x:7:8::/seven:/bin/sh\n\
                     homeless:x:40:41::\n"
                .into(),
            group: "root:x:0:\nadm:x:4:www-data,root\nwww-data:x:33:\nempty\nbad:x:z:www-data\n\
                    tape:x:26:other,www-data\n"
                .into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let identity = databases().identity("www-data", &[]).unwrap();
        assert_eq!((identity.uid, identity.gid), (33, 33));
        assert_eq!((identity.groups, &*identity.home), (vec![4, 26], "/var/www"));
        assert_eq!(databases().identity("33", &[]).unwrap().groups, [4, 26]);
        assert_eq!(databases().identity("", &[]).unwrap().home, "/root");
        assert_eq!(databases().identity("40", &[]).unwrap().home, "/");
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_of_group_0() {
        let identity = databases().identity("4000:50", &[]).unwrap();
        assert_eq!((identity.uid, identity.gid, &*identity.home), (4000, 50, "/"));
        assert_eq!(databases().identity("4000", &[]).unwrap().gid, 0);
    }

    #[test]
    fn a_name_that_looks_like_a_number_is_a_name_first() {
        assert_eq!(databases().identity("1000", &[]).unwrap().uid, 7);
    }

    #[test]
    fn a_group_that_is_said_replaces_the_databases() {
        let identity = databases().identity("www-data:tape", &["adm".into(), "99".into()]).unwrap();
        assert_eq!((identity.gid, identity.groups), (26, vec![4, 99]));
    }

    #[test]
    fn who_is_not_there_is_an_error() {
        for spec in
            ["nobody", "neg", "huge", "overflow", "broken", "root:nobody", "4294967295", "-1"]
        {
            let error = databases().identity(spec, &[]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NoSuchUser, "{spec}");
        }
    }

    #[test]
    fn hostile_databases_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("etc/passwd")).unwrap();
        std::fs::write(dir.path().join("etc/group"), [0xff; 100]).unwrap();
        let databases = Databases::read(dir.path()).unwrap();
        assert_eq!(databases.identity("0", &[]).unwrap().uid, 0);
        let file = File::create(dir.path().join("etc/group")).unwrap();
        file.set_len(MAX_DATABASE_BYTES + 1).unwrap();
        assert!(Databases::read(dir.path()).is_err());
    }
}
