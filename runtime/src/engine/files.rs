//! Files of containers, running or not: copies in and out, what changed, images made of it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use agent_proto::{ChangeReader, Client, Request, Stream};
use image::{HistoryEntry, ImageConfig, NewImage, Reference};

use super::{Engine, image_error};
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::error::{RuntimeError, file, system};
use crate::options::{Change, ChangeKind, CommitOptions};
use crate::record::{ContainerRecord, Status};
use crate::supervisor::Visit;

impl Engine {
    /// Gives access to a container's files. One that doesn't run is brought up for that, without its
    /// process, until the access is dropped.
    ///
    /// # Errors
    /// It's paused, restarting or being removed, or its VM doesn't come up.
    pub fn files(&self, reference: &str) -> Result<Files, RuntimeError> {
        let (record, state) = self.find(reference)?;
        let vsock = self.store.paths(&record.id).vsock();
        if matches!(state.status, Status::Created | Status::Exited | Status::Dead) {
            let visit = Visit::begin(Self::open(self.options.clone())?, &record.id)?;
            let client = visit.client().clone();
            return Ok(Files { client, vsock, _visit: Some(visit) });
        }
        let (_, client) = self.agent(&record.id)?;
        Ok(Files { client, vsock, _visit: None })
    }

    /// What differs in a container from its image.
    ///
    /// # Errors
    /// See [`files`](Self::files).
    pub fn diff(&self, reference: &str) -> Result<Vec<Change>, RuntimeError> {
        self.files(reference)?.changes()
    }

    /// Makes an image of a container, and returns its identifier.
    ///
    /// # Errors
    /// See [`files`](Self::files); a change makes no sense, or the image can't be stored.
    pub fn commit(&self, reference: &str, options: &CommitOptions) -> Result<String, RuntimeError> {
        let tag = options.reference.as_deref().map(str::parse::<Reference>).transpose();
        let tag = tag.map_err(|error| RuntimeError::invalid(error.to_string()))?;
        let (record, state) = self.find(reference)?;
        let images = self.images()?;
        let base = images.find(&record.resolved.image_id).map_err(image_error)?.image;
        let config = commit_config(&record, base.config, options)?;
        let files = self.files(&record.id)?;
        let transfer = files.transfer(&Request::CopyLayer { freeze: !options.no_pause })?;
        let mut layer = temporary_file(self)?;
        transfer.read_to(&mut layer, "keep the container's changes")?;
        layer.rewind().map_err(system("read the container's changes"))?;
        let image = images
            .add(NewImage {
                base: Some(base.id),
                layers: vec![layer],
                config,
                tags: tag.into_iter().collect(),
            })
            .map_err(image_error)?;
        self.emit_container("commit", &state.summary, [("imageID", image.id.clone())]);
        Ok(image.id)
    }
}

/// Access to a container's files.
pub struct Files {
    client: Client,
    vsock: PathBuf,
    /// What keeps a container up that doesn't run.
    _visit: Option<Visit>,
}

impl Files {
    /// Unpacks a tar archive into the directory `path` of the container.
    ///
    /// # Errors
    /// There's no such directory, or the archive is damaged.
    pub fn copy_in(&self, path: &str, archive: &mut dyn Read) -> Result<(), RuntimeError> {
        let transfer = self.transfer(&Request::CopyIn {
            path: path.to_owned(),
            keep_owners: false,
            replace: false,
        })?;
        let mut stream = &transfer.stream;
        let sent = io::copy(archive, &mut stream).and_then(|_| stream.shutdown(Shutdown::Write));
        // When the agent has given up, it says why: the closed stream is only its consequence.
        transfer.finish()?;
        sent.map_err(system("send an archive to the container"))
    }

    /// Packs a file or directory of the container into a tar archive, under its own name.
    ///
    /// # Errors
    /// There's no such file.
    pub fn copy_out(&self, path: &str, archive: &mut dyn Write) -> Result<(), RuntimeError> {
        let transfer = self.transfer(&Request::CopyOut { path: path.to_owned() })?;
        transfer.read_to(archive, "write the archive")
    }

    /// What differs in the container from its image.
    ///
    /// # Errors
    /// The agent can't be reached.
    pub fn changes(&self) -> Result<Vec<Change>, RuntimeError> {
        let transfer = self.transfer(&Request::Changes)?;
        let mut reader = ChangeReader::new(io::BufReader::new(&transfer.stream));
        let mut changes = Vec::new();
        while let Some(batch) = reader.next_batch().map_err(agent_error)? {
            changes.extend(batch.into_iter().map(|change| Change {
                kind: match change.kind {
                    agent_proto::ChangeKind::Modified => ChangeKind::Modified,
                    agent_proto::ChangeKind::Added => ChangeKind::Added,
                    agent_proto::ChangeKind::Deleted => ChangeKind::Deleted,
                },
                path: change.path,
            }));
        }
        transfer.finish()?;
        changes.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(changes)
    }

    fn transfer(&self, request: &Request) -> Result<Transfer, RuntimeError> {
        let client = self.client.clone();
        let id = client.transfer(request).map_err(agent_error)?;
        let stream = Client::stream(&self.vsock, Stream::Transfer { transfer: id }, AGENT_TIMEOUT)
            .map_err(agent_error)?;
        Ok(Transfer { client, id, stream })
    }
}

/// A copy between the host and a container.
struct Transfer {
    client: Client,
    id: agent_proto::TransferId,
    stream: UnixStream,
}

impl Transfer {
    /// Reads to the end. A reader that's gone closes the stream, which ends the agent's part.
    fn read_to(
        self,
        out: &mut (impl Write + ?Sized),
        what: &'static str,
    ) -> Result<(), RuntimeError> {
        io::copy(&mut &self.stream, out).map_err(system(what))?;
        out.flush().map_err(system(what))?;
        self.finish()
    }

    fn finish(self) -> Result<(), RuntimeError> {
        self.client.finish(self.id).map_err(agent_error)
    }
}

/// A file without a name, gone with this process.
fn temporary_file(engine: &Engine) -> Result<File, RuntimeError> {
    let dir = engine.paths.data();
    tempfile::tempfile_in(dir).map_err(file("create a file in", dir))
}

/// The configuration of an image that's made of a container: the container's own, over the
/// image's.
fn commit_config(
    record: &ContainerRecord,
    mut config: ImageConfig,
    options: &CommitOptions,
) -> Result<ImageConfig, RuntimeError> {
    let resolved = &record.resolved;
    let own = serde_json::json!({
        "Env": resolved.env,
        "Cmd": resolved.command,
        "Entrypoint": resolved.entrypoint,
        "WorkingDir": resolved.working_dir,
        "User": resolved.user,
        "Labels": resolved.labels,
    });
    let mut merged = config.config.as_object().cloned().unwrap_or_default();
    merged.extend(own.as_object().cloned().unwrap_or_default());
    config.config = merged.into();
    config = image::change_config(config, &options.changes)
        .map_err(|error| RuntimeError::invalid(error.to_string()))?;
    let created = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    let words = resolved.entrypoint.iter().chain(&resolved.command).cloned();
    config.history.push(HistoryEntry {
        created: Some(created.clone()),
        created_by: Some(words.collect::<Vec<_>>().join(" ")),
        author: options.author.clone(),
        comment: options.message.clone(),
        empty_layer: false,
    });
    config.created = Some(created);
    config.author = options.author.clone().or(config.author);
    Ok(config)
}
