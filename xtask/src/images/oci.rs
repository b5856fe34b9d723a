//! An image as a directory in the OCI image layout (image-spec 1.1, `image-layout.md`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image in a directory of its own.
pub(super) struct Image {
    pub(super) dir: PathBuf,
    /// Its names with tags.
    pub(super) names: Vec<String>,
}

/// What a manifest says of a blob.
struct Descriptor {
    digest: String,
    size: u64,
}

impl Descriptor {
    fn json(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

impl Image {
    /// Writes an image of uncompressed layers, the lowest first.
    pub(super) fn write(
        dir: PathBuf,
        names: &[String],
        config: &Value,
        layers: &[PathBuf],
    ) -> Result<Self> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in layers {
            let (descriptor, diff_id) = compress(layer, &blobs)?;
            descriptors.push(descriptor.json("application/vnd.oci.image.layer.v1.tar+gzip"));
            diff_ids.push(diff_id);
        }
        let history: Vec<_> =
            diff_ids.iter().map(|_| json!({ "created_by": "cargo xtask images" })).collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": architecture(),
            "os": "linux",
            "config": with_path(config),
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        let config = store(&config, &blobs)?.json("application/vnd.oci.image.config.v1+json");
        let manifest = store(
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": descriptors,
            }),
            &blobs,
        )?;
        let manifest = manifest.json("application/vnd.oci.image.manifest.v1+json");
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        write(&dir.join("index.json"), &serde_json::to_vec(&index)?)?;
        write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { dir, names: names.to_vec() })
    }
}

/// The architecture's name in Go, which image configurations use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Puts the path that Docker's base images have before a configuration's own environment.
fn with_path(config: &Value) -> Value {
    let mut config = config.clone();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut variables = vec![json!(path)];
    variables.extend(config["Env"].as_array().cloned().unwrap_or_default());
    config["Env"] = Value::Array(variables);
    config
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn store(document: &Value, blobs: &Path) -> Result<Descriptor> {
    let content = serde_json::to_vec(document)?;
    let hex = hex(&Sha256::digest(&content));
    write(&blobs.join(&hex), &content)?;
    Ok(Descriptor { digest: format!("sha256:{hex}"), size: content.len() as u64 })
}

/// Stores a layer compressed; returns also the digest that it has uncompressed.
fn compress(layer: &Path, blobs: &Path) -> Result<(Descriptor, String)> {
    let context = || format!("cannot compress {}", layer.display());
    let mut input = Hashing::new(File::open(layer).with_context(context)?);
    let temporary = blobs.join("layer");
    let output = Hashing::new(File::create(&temporary).with_context(context)?);
    let mut encoder = GzEncoder::new(output, Compression::default());
    io::copy(&mut input, &mut encoder).with_context(context)?;
    let output = encoder.finish().with_context(context)?;
    let hex = hex(&output.hasher.finalize());
    let size = output.inner.metadata().with_context(context)?.len();
    fs::rename(&temporary, blobs.join(&hex)).with_context(context)?;
    let diff_id = format!("sha256:{}", self::hex(&input.hasher.finalize()));
    Ok((Descriptor { digest: format!("sha256:{hex}"), size }, diff_id))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what's read or written.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new() }
    }
}

impl<T: io::Read> io::Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: io::Write> io::Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
