//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use super::{Problem, amounts, names};

/// Something that's mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) source: Source,
    /// Absolute, in the container.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// What's mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or a directory of the host.
    Bind(PathBuf),
    /// A volume; one of its own without a name.
    Volume {
        name: Option<String>,
        /// What the image has at the target isn't copied into an empty volume.
        no_copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// At most so many bytes.
        size_bytes: Option<u64>,
        /// The root's permissions.
        mode: Option<u32>,
        /// Options as `mount` has them: `noexec`, `nosuid`, …
        options: Vec<String>,
    },
}

/// Reads `-v [SOURCE:]TARGET[:OPTION,…]`.
pub(crate) fn volume(text: &str) -> Result<Mount, Problem> {
    let invalid = || format!("invalid volume specification: '{text}'");
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, None),
        [source, target] => (Some(*source), *target, None),
        [source, target, options] => (Some(*source), *target, Some(*options)),
        _ => return Err(invalid()),
    };
    let source = match source {
        None => Source::Volume { name: None, no_copy: false },
        Some("") => return Err(invalid()),
        Some(path) if path.starts_with(['/', '.', '~']) => Source::Bind(host_path(path)?),
        Some(name) => {
            let name = names::name(name).map_err(|_| volume_name_problem(name))?;
            Source::Volume { name: Some(name), no_copy: false }
        }
    };
    let mut mount = Mount { source, target: target_path(target)?, read_only: false };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        volume_option(&mut mount, option)
            .map_err(|()| format!("invalid mode: {option}; there are ro, rw, nocopy, z, Z"))?;
    }
    Ok(mount)
}

fn volume_name_problem(name: &str) -> Problem {
    format!(
        "{name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )
}

fn volume_option(mount: &mut Mount, option: &str) -> Result<(), ()> {
    match option {
        "ro" => mount.read_only = true,
        // Labels of SELinux and consistency are about hosts that share a kernel, or a Mac.
        "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "default" => {}
        // A guest's mounts don't propagate to the host; these ask for nothing else.
        "private" | "rprivate" => {}
        "nocopy" => match &mut mount.source {
            Source::Volume { no_copy, .. } => *no_copy = true,
            _ => return Err(()),
        },
        _ => return Err(()),
    }
    Ok(())
}

/// A path on the host, relative ones below the current directory.
fn host_path(text: &str) -> Result<PathBuf, Problem> {
    if text.starts_with('~') {
        return Err(format!("{text:?}: shells replace ~ only at a word's beginning; write $HOME"));
    }
    std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))
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
pub(crate) fn tmpfs(text: &str) -> Result<Mount, Problem> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut parsed = Tmpfs::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        parsed.option(option)?;
    }
    let target = target_path(target)?;
    Ok(Mount { source: parsed.source(), target, read_only: parsed.read_only })
}

#[derive(Debug, Default)]
struct Tmpfs {
    size_bytes: Option<u64>,
    mode: Option<u32>,
    options: Vec<String>,
    read_only: bool,
}

impl Tmpfs {
    fn option(&mut self, option: &str) -> Result<(), Problem> {
        match option.split_once('=') {
            Some(("size", size)) => self.size_bytes = Some(amounts::bytes(size)?),
            Some(("mode", mode)) => self.mode = Some(octal(mode)?),
            Some(("uid" | "gid" | "nr_inodes" | "nr_blocks", number))
                if number.parse::<u32>().is_ok() =>
            {
                self.options.push(option.to_owned());
            }
            None => match option {
                "ro" => self.read_only = true,
                "rw" => self.read_only = false,
                "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "sync" | "async"
                | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime" | "norelatime"
                | "strictatime" | "nostrictatime" => self.options.push(option.to_owned()),
                _ => return Err(format!("invalid tmpfs option {option:?}")),
            },
            Some(_) => return Err(format!("invalid tmpfs option {option:?}")),
        }
        Ok(())
    }

    fn source(&self) -> Source {
        let options = self.options.clone();
        Source::Tmpfs { size_bytes: self.size_bytes, mode: self.mode, options }
    }
}

fn octal(text: &str) -> Result<u32, Problem> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("invalid mode {text:?}: expected octal digits, such as 1777"))
}

/// Reads `--mount type=…,source=…,target=…,…`.
pub(crate) fn mount(text: &str) -> Result<Mount, Problem> {
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
    tmpfs: Tmpfs,
    tmpfs_only: Option<&'static str>,
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
                self.tmpfs.size_bytes = Some(amounts::bytes(needed()?)?);
                self.tmpfs_only = Some("tmpfs-size");
            }
            "tmpfs-mode" => {
                self.tmpfs.mode = Some(octal(needed()?)?);
                self.tmpfs_only = Some("tmpfs-mode");
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

    fn into_mount(self) -> Result<Mount, Problem> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        let target = self.target.as_deref().ok_or("target is required")?;
        let target = target_path(target)?;
        if let Some(key) = self.tmpfs_only.filter(|_| kind != "tmpfs") {
            return Err(format!("cannot mix 'tmpfs-*' options with mount type '{kind}': {key}"));
        }
        if self.no_copy && kind != "volume" {
            return Err(format!("cannot mix 'volume-*' options with mount type '{kind}'"));
        }
        let source = match (kind, self.source.as_deref().filter(|source| !source.is_empty())) {
            ("bind", Some(path)) => Source::Bind(host_path(path)?),
            ("bind", None) => {
                return Err("source is required when specifying mount type bind".into());
            }
            ("volume", None) => Source::Volume { name: None, no_copy: self.no_copy },
            ("volume", Some(name)) => {
                let name = names::name(name).map_err(|_| volume_name_problem(name))?;
                Source::Volume { name: Some(name), no_copy: self.no_copy }
            }
            ("tmpfs", None) => self.tmpfs.source(),
            ("tmpfs", Some(_)) => return Err("a tmpfs mount has no source".to_owned()),
            _ => {
                return Err(format!("invalid mount type {kind:?}; there are bind, volume, tmpfs"));
            }
        };
        Ok(Mount { source, target, read_only: self.read_only })
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

    fn named(name: &str) -> Source {
        Source::Volume { name: Some(name.to_owned()), no_copy: false }
    }

    fn bind(path: &str) -> Source {
        Source::Bind(PathBuf::from(path))
    }

    fn at(source: Source, target: &str, read_only: bool) -> Result<Mount, Problem> {
        Ok(Mount { source, target: target.to_owned(), read_only })
    }

    #[test]
    fn volumes_are_directories_names_or_nameless() {
        let none = Source::Volume { name: None, no_copy: false };
        assert_eq!(volume("/data"), at(none, "/data", false));
        assert_eq!(volume("/srv:/data"), at(bind("/srv"), "/data", false));
        assert_eq!(volume("/srv:/data:ro"), at(bind("/srv"), "/data", true));
        assert_eq!(volume("/srv:/data:ro,Z"), at(bind("/srv"), "/data", true));
        assert_eq!(volume("db:/data"), at(named("db"), "/data", false));
        let no_copy = Source::Volume { name: Some("db".to_owned()), no_copy: true };
        assert_eq!(volume("db:/data:nocopy"), at(no_copy, "/data", false));
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("./x:/data").unwrap().source, Source::Bind(here.join("x")));
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
    fn tmpfs_takes_a_size_a_mode_and_options_of_mount() {
        let source = Source::Tmpfs {
            size_bytes: Some(64 << 10),
            mode: Some(0o1777),
            options: vec!["noexec".to_owned(), "uid=5".to_owned()],
        };
        assert_eq!(tmpfs("/run:rw,noexec,size=64k,mode=1777,uid=5"), at(source, "/run", false));
        assert!(tmpfs("/run:ro").unwrap().read_only);
        for (text, problem) in [
            ("run", "invalid mount path"),
            ("/", "invalid specification"),
            ("/run:bogus", "invalid tmpfs option \"bogus\""),
            ("/run:uid=x", "invalid tmpfs option \"uid=x\""),
            ("/run:size=x", "invalid size: 'x'"),
            ("/run:mode=9", "invalid mode \"9\""),
            ("/run:mode=77777", "invalid mode"),
        ] {
            assert!(tmpfs(text).unwrap_err().starts_with(problem), "{text}");
        }
    }

    #[test]
    fn mounts_say_their_type_source_and_target() {
        assert_eq!(mount("type=bind,src=/a,dst=/b"), at(bind("/a"), "/b", false));
        assert_eq!(mount("type=bind,source=/a,target=/b,readonly"), at(bind("/a"), "/b", true));
        assert_eq!(mount("source=db,target=/b,ro=false"), at(named("db"), "/b", false));
        assert_eq!(mount("\"type=bind\",\"src=/a,\"\"b\",dst=/c"), at(bind("/a,\"b"), "/c", false));
        let source = Source::Tmpfs { size_bytes: Some(1 << 20), mode: None, options: vec![] };
        assert_eq!(mount("type=tmpfs,destination=/b,tmpfs-size=1m"), at(source, "/b", false));
        let none = Source::Volume { name: None, no_copy: true };
        assert_eq!(mount("target=/b,volume-nocopy"), at(none, "/b", false));
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
