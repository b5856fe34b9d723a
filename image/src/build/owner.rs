//! `--chown` and `--chmod`: names looked up in the image's own files.

use std::io::Read;

use super::tree::{Tree, resolve};

/// The largest `/etc/passwd` or `/etc/group` that's read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Reads `USER[:GROUP]`, names or numbers; without a group it's the user's number, or its own
/// group if it has a name.
///
/// # Errors
/// What's wrong with it.
pub(super) fn parse_owner(text: &str, image: &dyn Tree) -> Result<(u64, u64), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let (uid, own_group) = match number(user) {
        Some(uid) => (uid, uid),
        None => lookup(image, "etc/passwd", user)
            .and_then(|fields| Some((number(fields.get(2)?)?, number(fields.get(3)?)?)))
            .ok_or_else(|| format!("the image has no user named {user}"))?,
    };
    let gid = match group {
        None => own_group,
        Some(group) => match number(group) {
            Some(gid) => gid,
            None => lookup(image, "etc/group", group)
                .and_then(|fields| number(fields.get(2)?))
                .ok_or_else(|| format!("the image has no group named {group}"))?,
        },
    };
    Ok((uid, gid))
}

/// The fields of the line that begins with `name`.
fn lookup(image: &dyn Tree, path: &str, name: &str) -> Option<Vec<String>> {
    let path = resolve(image, path).ok()?;
    let mut bytes = Vec::new();
    image.open(&path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    Some(line.split(':').map(str::to_owned).collect())
}

/// Reads permission bits in octal.
///
/// # Errors
/// What's wrong with them.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("`{text}` is no mode: it's written in octal, as 0644")),
    }
}
