//! What the builds' tests share: a store with a base image, a context, a caller that runs commands.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::disk::Disk;
use super::tree::{Kind, Meta, Tree, resolve};
use super::{BuildError, BuildHost, BuildOptions, HostError, RunOutcome, RunRequest};
use crate::{Image, ImageConfig, Images, NewImage};

/// The base image's files.
const BASE: [(&str, &str); 4] = [
    ("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:44:w:/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nweb:x:44:\nstaff:x:50:\n"),
    ("bin/sh", "#!"),
    ("usr/share/nginx/html/index.html", "old"),
];

/// A store, a context, and what was asked of the caller.
pub(super) struct Lab {
    root: TempDir,
    pub(super) images: Images,
    pub(super) host: Host,
    pub(super) options: BuildOptions,
}

/// A caller that runs commands by writing a file that says how.
#[derive(Default)]
pub(super) struct Host {
    pub(super) lines: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) requests: Vec<RunRequest>,
    pub(super) provided: Vec<String>,
    /// How commands end.
    pub(super) code: i32,
}

impl BuildHost for Host {
    fn provide(&mut self, reference: &str, platform: Option<&str>) -> Result<(), HostError> {
        self.provided.push(format!("{reference} {}", platform.unwrap_or("-")));
        match reference {
            "missing" => Err("the registry hasn't got it".into()),
            _ => Ok(()),
        }
    }

    fn run(&mut self, request: &RunRequest) -> Result<RunOutcome, HostError> {
        self.requests.push(request.clone());
        let text = request.words.join(" ");
        let layer = archive(&[("ran", text.as_bytes())]);
        Ok(RunOutcome { code: self.code, layer: Some(layer) })
    }

    fn say(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    fn warn(&mut self, line: &str) {
        self.warnings.push(line.to_owned());
    }
}

/// A file without a name that holds `bytes`, at its start.
pub(super) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// An archive of files.
pub(super) fn archive(files: &[(&str, &[u8])]) -> File {
    file(&archive_bytes(files))
}

pub(super) fn archive_bytes(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Lab {
    /// A store with the images `base` and `nginx`, which has links, users and a configuration.
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("context")).unwrap();
        let images = Images::open(&root.path().join("data")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in BASE {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        for (path, target) in [("var/run", "/run"), ("out", "../../../etc"), ("sbin", "bin")] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            builder.append_link(&mut header, path, target).unwrap();
        }
        let config = ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            config: json!({ "Env": ["PATH=/bin"], "Cmd": ["nginx"], "ExposedPorts": { "80/tcp": {} } }),
            ..ImageConfig::default()
        };
        let layer = file(&builder.into_inner().unwrap());
        let tags = ["base", "nginx"].map(|name| name.parse().unwrap()).to_vec();
        images.add(NewImage { base: None, layers: vec![layer], config, tags }).unwrap();
        let options = BuildOptions {
            name: "Dockerfile".to_owned(),
            context: root.path().join("context"),
            ..BuildOptions::default()
        };
        Self { root, images, host: Host::default(), options }
    }

    /// Writes a file of the context.
    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join("context").join(path)
    }

    pub(super) fn build(&mut self, text: &str) -> Result<Image, BuildError> {
        self.host.lines.clear();
        self.options.text = text.to_owned();
        self.images.build(&self.options, &mut self.host)
    }

    pub(super) fn built(&mut self, text: &str) -> Built<'_> {
        let image = self.build(text).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let disk = Disk::open(&self.images, Some(&image.id)).unwrap();
        Built { image, disk, lab: self }
    }

    /// What a build fails with, causes included.
    pub(super) fn problem(&mut self, text: &str) -> String {
        match self.build(text) {
            Ok(image) => panic!("it was built: {}", image.id),
            Err(error) => chain(&error),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An image that was built.
pub(super) struct Built<'a> {
    pub(super) image: Image,
    pub(super) disk: Disk,
    pub(super) lab: &'a Lab,
}

impl Built<'_> {
    /// A file's content, links followed.
    pub(super) fn read(&self, path: &str) -> String {
        let path = resolve(&self.disk, path).unwrap();
        let mut text = String::new();
        self.disk.open(&path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub(super) fn meta(&self, path: &str) -> Meta {
        self.disk.meta(path).unwrap().unwrap_or_else(|| panic!("{path} isn't there"))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.disk.meta(path).unwrap().is_some()
    }

    /// A file's mode and owner.
    pub(super) fn mode(&self, path: &str) -> (u32, u64, u64) {
        let meta = self.meta(path);
        (meta.mode, meta.uid, meta.gid)
    }

    pub(super) fn is_link(&self, path: &str, to: &str) -> bool {
        self.meta(path).kind == Kind::Symlink(to.to_owned())
    }

    pub(super) fn config(&self, field: &str) -> &serde_json::Value {
        &self.image.config.config[field]
    }

    pub(super) fn history(&self) -> Vec<&str> {
        let history = self.image.config.history.iter();
        history.filter_map(|entry| entry.created_by.as_deref()).collect()
    }
}

/// Variables by name.
pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
