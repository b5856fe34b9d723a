//! Directories of the host's that the guest mounts.

use super::super::{
    ConfigError, Field, FilesystemConfig, FilesystemSpec, MAX_SHARES, MAX_TAG_BYTES, ShareConfig,
    ShareSpec,
};
use super::values::{check_id, checked_path, invalid, is_printable};

/// The longest name in a directory, in bytes.
const MAX_NAME_BYTES: usize = 255;

pub(super) fn filesystems(
    specs: Vec<FilesystemSpec>,
) -> Result<Vec<FilesystemConfig>, ConfigError> {
    let mut filesystems: Vec<FilesystemConfig> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let filesystem = filesystem(index, spec)?;
        refuse_filesystem_conflict(index, &filesystem, &filesystems)?;
        filesystems.push(filesystem);
    }
    Ok(filesystems)
}

pub(super) fn filesystem(
    index: usize,
    spec: FilesystemSpec,
) -> Result<FilesystemConfig, ConfigError> {
    let field = |key: &str| Field::filesystem(index, key);
    check_id(&field("fs_id"), &spec.fs_id)?;
    let default_tag = || spec.fs_id.chars().take(MAX_TAG_BYTES).collect();
    let tag = spec.tag.unwrap_or_else(default_tag);
    if tag.is_empty() || tag.len() > MAX_TAG_BYTES || !tag.bytes().all(is_printable) {
        let reason = format!("can't be a tag: 1 to {MAX_TAG_BYTES} printable ASCII bytes can");
        return Err(invalid(field("tag"), tag, &reason));
    }
    if spec.shares.len() > MAX_SHARES {
        let value = spec.shares.len().to_string();
        let reason = format!("are too many shares: at most {MAX_SHARES} are possible");
        return Err(ConfigError::Invalid { field: field("shares"), value, reason });
    }
    let mut shares: Vec<ShareConfig> = Vec::with_capacity(spec.shares.len());
    for (place, spec) in spec.shares.into_iter().enumerate() {
        let key = |key: &str| Field::filesystem(index, &format!("shares[{place}].{key}"));
        let share = share(place, spec, &key)?;
        let earlier = shares.iter().position(|other| other.name == share.name);
        if let Some(first) = earlier {
            return Err(ConfigError::Duplicate {
                field: key("name"),
                value: share.name,
                first: field(&format!("shares[{first}].name")),
            });
        }
        shares.push(share);
    }
    Ok(FilesystemConfig { id: spec.fs_id, tag, shares })
}

fn share(
    place: usize,
    spec: ShareSpec,
    field: &dyn Fn(&str) -> Field,
) -> Result<ShareConfig, ConfigError> {
    let name = spec.name.unwrap_or_else(|| place.to_string());
    let is_name = !matches!(name.as_str(), "" | "." | "..")
        && name.len() <= MAX_NAME_BYTES
        && !name.contains(['/', '\0']);
    if !is_name {
        return Err(invalid(field("name"), name, "can't be the name of a file"));
    }
    let path = checked_path(field("path"), spec.path)?;
    Ok(ShareConfig { name, path, read_only: spec.is_read_only })
}

/// Refuses a second file system of the same name or tag.
pub(super) fn refuse_filesystem_conflict(
    index: usize,
    filesystem: &FilesystemConfig,
    earlier: &[FilesystemConfig],
) -> Result<(), ConfigError> {
    for (other_index, other) in earlier.iter().enumerate() {
        let (key, value) = if other.id == filesystem.id {
            ("fs_id", &filesystem.id)
        } else if other.tag == filesystem.tag {
            ("tag", &filesystem.tag)
        } else {
            continue;
        };
        return Err(ConfigError::Duplicate {
            field: Field::filesystem(index, key),
            value: value.clone(),
            first: Field::filesystem(other_index, key),
        });
    }
    Ok(())
}
