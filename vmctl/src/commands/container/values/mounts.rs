//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use runtime::{MountKind, MountSpec};

use super::{Problem, amounts, names};

/// Reads `-v [SOURCE:]TARGET[:OPTION,…]`.
pub(crate) fn volume(text: &str) -> Result<MountSpec, Problem> {
    let invalid = || format!("invalid volume specification: '{text}'");
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, None),
        [source, target] => (Some(*source), *target, None),
        [source, target, options] => (Some(*source), *target, Some(*options)),
        _ => return Err(invalid()),
    };
    let (kind, source) = match source {
        None => (MountKind::Volume, None),
        Some("") => return Err(invalid()),
        Some(path) if path.starts_with(['/', '.', '~']) => {
            (MountKind::Bind, Some(host_path(path)?))
        }
        Some(name) => (MountKind::Volume, Some(volume_name(name)?)),
    };
    let target = target_path(target)?;
    let mut mount = MountSpec { kind, source, target, ..MountSpec::default() };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        volume_option(&mut mount, option)
            .map_err(|()| format!("invalid mode: {option}; there are ro, rw, nocopy, z, Z"))?;
    }
    Ok(mount)
}

fn volume_name(name: &str) -> Result<String, Problem> {
    names::name(name).map_err(|_| {
        format!(
            "{name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        )
    })
}

fn volume_option(mount: &mut MountSpec, option: &str) -> Result<(), ()> {
    match option {
        "ro" => mount.read_only = true,
        // Labels of SELinux and consistency are about hosts that share a kernel, or a Mac.
        "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "default" => {}
        // A guest's mounts don't propagate to the host; these ask for nothing else.
        "private" | "rprivate" => {}
        "nocopy" if mount.kind == MountKind::Volume => mount.no_copy = true,
        _ => return Err(()),
    }
    Ok(())
}

/// A path on the host, relative ones below the current directory.
fn host_path(text: &str) -> Result<String, Problem> {
    if text.starts_with('~') {
        return Err(format!("{text:?}: shells replace ~ only at a word's beginning; write $HOME"));
    }
    let path = std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))?;
    path.into_os_string().into_string().map_err(|path| format!("{path:?} isn't UTF-8"))
}

/// A path in the container.
fn target_path(text: &str) -> Result<String, Problem> {
    if !text.starts_with('/') {
        return Err(format!("invalid mount path: '{text}' mount path must be absolute"));
    }
    if text.contains('\0') {
        return Err("must not have a zero byte in it".to_owned());
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    if clean.parent().is_none() {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    // It was a str.
    Ok(clean.to_string_lossy().into_owned())
}

/// Reads `--tmpfs TARGET[:OPTION,…]`.
pub(crate) fn tmpfs(text: &str) -> Result<MountSpec, Problem> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target)?;
    let mut mount = MountSpec { kind: MountKind::Tmpfs, target, ..MountSpec::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => mount.tmpfs_size_bytes = Some(amounts::bytes(size)?),
            Some(("mode", mode)) => mount.tmpfs_mode = Some(octal(mode)?),
            None if option == "ro" => mount.read_only = true,
            None if option == "rw" => mount.read_only = false,
            // As it's mounted anyway.
            None if matches!(option, "noexec" | "nosuid" | "nodev") => {}
            _ => {
                return Err(format!(
                    "invalid tmpfs option {option:?}; there are ro, rw, size, mode, noexec, nosuid, \
                     nodev"
                ));
            }
        }
    }
    Ok(mount)
}

fn octal(text: &str) -> Result<u32, Problem> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("invalid mode {text:?}: expected octal digits, such as 1777"))
}

/// Reads `--mount type=…,source=…,target=…,…`.
pub(crate) fn mount(text: &str) -> Result<MountSpec, Problem> {
    let mut fields = MountFields::default();
    for field in csv_fields(text)? {
        fields.set(&field)?;
    }
    fields.into_mount()
}

/// What a `--mount` has said so far.
#[derive(Debug, Default)]
struct MountFields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    no_copy: bool,
    size_bytes: Option<u64>,
    mode: Option<u32>,
}

impl MountFields {
    fn set(&mut self, field: &str) -> Result<(), Problem> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let needed =
            || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
        match key.as_str() {
            "type" => self.kind = Some(needed()?.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(needed()?.to_owned()),
            "readonly" | "ro" => self.read_only = truth(&key, value)?,
            "volume-nocopy" => self.no_copy = truth(&key, value)?,
            "tmpfs-size" => {
                self.size_bytes = Some(amounts::bytes(needed()?)?);
            }
            "tmpfs-mode" => {
                self.mode = Some(octal(needed()?)?);
            }
            "consistency" => drop(needed()?),
            "bind-propagation" if matches!(value, Some("private" | "rprivate")) => {}
            _ => {
                return Err(format!(
                    "unexpected key '{key}' in '{field}'; there are type, source, target, readonly, \
                     volume-nocopy, tmpfs-size, tmpfs-mode, consistency"
                ));
            }
        }
        Ok(())
    }

    fn into_mount(self) -> Result<MountSpec, Problem> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        let target = self.target.as_deref().ok_or("target is required")?;
        let target = target_path(target)?;
        if kind != "tmpfs" && (self.size_bytes.is_some() || self.mode.is_some()) {
            return Err(format!("cannot mix 'tmpfs-*' options with mount type '{kind}'"));
        }
        if self.no_copy && kind != "volume" {
            return Err(format!("cannot mix 'volume-*' options with mount type '{kind}'"));
        }
        let (kind, source) = match (kind, self.source.filter(|source| !source.is_empty())) {
            ("bind", Some(path)) => (MountKind::Bind, Some(host_path(&path)?)),
            ("bind", None) => {
                return Err("source is required when specifying mount type bind".into());
            }
            ("volume", source) => {
                (MountKind::Volume, source.as_deref().map(volume_name).transpose()?)
            }
            ("tmpfs", None) => (MountKind::Tmpfs, None),
            ("tmpfs", Some(_)) => return Err("a tmpfs mount has no source".to_owned()),
            _ => {
                return Err(format!("invalid mount type {kind:?}; there are bind, volume, tmpfs"));
            }
        };
        Ok(MountSpec {
            kind,
            source,
            target,
            read_only: self.read_only,
            no_copy: self.no_copy,
            tmpfs_size_bytes: self.size_bytes,
            tmpfs_mode: self.mode,
            ..MountSpec::default()
        })
    }
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(value) => Err(format!("invalid value for {key}: {value}")),
    }
}

/// Splits at commas. A field in quotes may have commas, and quotes written twice.
fn csv_fields(text: &str) -> Result<Vec<String>, Problem> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => {
                quoted = false;
                if chars.peek().is_some_and(|next| *next != ',') {
                    return Err("extraneous or missing \" in quoted-field".to_owned());
                }
            }
            '"' if field.is_empty() => quoted = true,
            '"' => return Err("bare \" in non-quoted field".to_owned()),
            ',' if !quoted => fields.push(String::new()),
            char => field.push(char),
        }
    }
    if quoted { Err("extraneous or missing \" in quoted-field".to_owned()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: MountKind, source: Option<&str>, target: &str) -> MountSpec {
        let source = source.map(str::to_owned);
        MountSpec { kind, source, target: target.to_owned(), ..MountSpec::default() }
    }

    fn named(name: &str, target: &str) -> MountSpec {
        spec(MountKind::Volume, Some(name), target)
    }

    fn bind(path: &str, target: &str) -> MountSpec {
        spec(MountKind::Bind, Some(path), target)
    }

    fn read_only(mount: MountSpec) -> MountSpec {
        MountSpec { read_only: true, ..mount }
    }

    #[test]
    fn volumes_are_directories_names_or_nameless() {
        assert_eq!(volume("/data"), Ok(spec(MountKind::Volume, None, "/data")));
        assert_eq!(volume("/srv:/data"), Ok(bind("/srv", "/data")));
        assert_eq!(volume("/srv:/data:ro"), Ok(read_only(bind("/srv", "/data"))));
        assert_eq!(volume("/srv:/data:ro,Z"), Ok(read_only(bind("/srv", "/data"))));
        assert_eq!(volume("db:/data"), Ok(named("db", "/data")));
        let no_copy = MountSpec { no_copy: true, ..named("db", "/data") };
        assert_eq!(volume("db:/data:nocopy"), Ok(no_copy));
        let here = std::env::current_dir().unwrap().join("x");
        assert_eq!(volume("./x:/data"), Ok(bind(here.to_str().unwrap(), "/data")));
    }

    #[test]
    fn targets_are_cleaned_and_never_the_root() {
        assert_eq!(volume("/a:/b//c/../d/.").unwrap().target, "/b/d");
        assert_eq!(volume("/a:/../../b").unwrap().target, "/b");
        for target in ["/", "//", "/b/..", "/.", "/../.."] {
            let problem = volume(&format!("/a:{target}")).unwrap_err();
            assert_eq!(problem, "invalid specification: destination can't be '/'");
        }
    }

    #[test]
    fn malformed_volumes_are_refused() {
        for (text, problem) in [
            ("", "invalid mount path: '' mount path must be absolute"),
            ("data", "invalid mount path: 'data' mount path must be absolute"),
            ("/a:b", "invalid mount path: 'b' mount path must be absolute"),
            (":/b", "invalid volume specification: ':/b'"),
            ("/a:/b:ro:x", "invalid volume specification"),
            ("/a:/b:rx", "invalid mode: rx; there are ro, rw, nocopy, z, Z"),
            ("/a:/b:", "invalid mode: ;"),
            ("/a:/b:nocopy", "invalid mode: nocopy"),
            ("/a:/b:shared", "invalid mode: shared"),
            ("a/b:/c", "\"a/b\" includes invalid characters for a local volume name"),
            ("~/a:/c", "\"~/a\": shells replace ~"),
            ("/a:/b\0", "must not have a zero byte in it"),
        ] {
            let found = volume(text).unwrap_err();
            assert!(found.starts_with(problem), "{text}: {found}");
        }
    }

    #[test]
    fn tmpfs_takes_a_size_and_a_mode() {
        let mount = MountSpec {
            tmpfs_size_bytes: Some(64 << 10),
            tmpfs_mode: Some(0o1777),
            ..spec(MountKind::Tmpfs, None, "/run")
        };
        assert_eq!(tmpfs("/run:rw,noexec,size=64k,mode=1777"), Ok(mount));
        assert!(tmpfs("/run:ro").unwrap().read_only);
        for (text, problem) in [
            ("run", "invalid mount path"),
            ("/", "invalid specification"),
            ("/run:bogus", "invalid tmpfs option \"bogus\""),
            ("/run:exec", "invalid tmpfs option \"exec\""),
            ("/run:size=x", "invalid size: 'x'"),
            ("/run:mode=9", "invalid mode \"9\""),
            ("/run:mode=77777", "invalid mode"),
        ] {
            assert!(tmpfs(text).unwrap_err().starts_with(problem), "{text}");
        }
    }

    #[test]
    fn mounts_say_their_type_source_and_target() {
        assert_eq!(mount("type=bind,src=/a,dst=/b"), Ok(bind("/a", "/b")));
        assert_eq!(
            mount("type=bind,source=/a,target=/b,readonly"),
            Ok(read_only(bind("/a", "/b")))
        );
        assert_eq!(mount("source=db,target=/b,ro=false"), Ok(named("db", "/b")));
        let quoted = mount("\"type=bind\",\"src=/a,\"\"b\",dst=/c");
        assert_eq!(quoted, Ok(bind("/a,\"b", "/c")));
        let tmpfs =
            MountSpec { tmpfs_size_bytes: Some(1 << 20), ..spec(MountKind::Tmpfs, None, "/b") };
        assert_eq!(mount("type=tmpfs,destination=/b,tmpfs-size=1m"), Ok(tmpfs));
        let no_copy = MountSpec { no_copy: true, ..spec(MountKind::Volume, None, "/b") };
        assert_eq!(mount("target=/b,volume-nocopy"), Ok(no_copy));
    }

    #[test]
    fn malformed_mounts_are_refused() {
        for (text, problem) in [
            ("", "unexpected key '' in ''"),
            ("type=bind", "target is required"),
            ("type", "invalid field 'type' must be a key=value pair"),
            ("type=bind,target=/b", "source is required when specifying mount type bind"),
            ("type=tmpfs,src=/a,target=/b", "a tmpfs mount has no source"),
            ("type=npipe,target=/b", "invalid mount type \"npipe\""),
            ("bogus=1,target=/b", "unexpected key 'bogus' in 'bogus=1'"),
            ("type=bind,src=/a,target=b", "invalid mount path"),
            ("target=/b,ro=maybe", "invalid value for ro: maybe"),
            ("target=/b,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
            ("type=bind,src=/a,target=/b,volume-nocopy", "cannot mix 'volume-*' options"),
            ("type=bind,src=/a,target=/b,bind-propagation=shared", "unexpected key"),
            ("\"target=/b", "extraneous or missing \" in quoted-field"),
            ("tar\"get=/b", "bare \" in non-quoted field"),
        ] {
            let found = mount(text).unwrap_err();
            assert!(found.starts_with(problem), "{text}: {found}");
        }
    }
}
