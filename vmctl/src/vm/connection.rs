//! The requests that commands make of a VMM's API.

use std::path::Path;
use std::time::Duration;

use api::VmmAction;
use api::config::{DriveSpec, FilesystemSpec, NetSpec, VmSpec};
use api::ext::{ForkParams, ForkReport, VmDetails};
use api::http::{Client, ClientError, Events};
use api::v1::{CreateSnapshotParams, InstanceInfo, LoadSnapshotParams, TargetState, VmTarget};

/// How long a request may take that moves the VM's memory.
const BULK_LIMIT: Duration = Duration::from_secs(3600);

/// A connection to one VM's API.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    limit: Duration,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Connection {
    /// Connects; each answer may take as long as `limit`.
    ///
    /// # Errors
    /// Nobody listens on the socket.
    pub(crate) fn open(socket: &Path, limit: Duration) -> Result<Self> {
        let mut client = Client::connect(socket)?;
        client.set_timeout(limit);
        Ok(Self { client, limit })
    }

    pub(crate) fn instance_info(&mut self) -> Result<InstanceInfo> {
        self.client.get("/")
    }

    pub(crate) fn details(&mut self) -> Result<VmDetails> {
        self.client.get("/ext/v1/vm")
    }

    pub(crate) fn config(&mut self) -> Result<VmSpec> {
        self.client.get("/vm/config")
    }

    pub(crate) fn pause(&mut self) -> Result<()> {
        self.client.patch("/vm", &VmTarget { state: TargetState::Paused })
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.client.patch("/vm", &VmTarget { state: TargetState::Resumed })
    }

    /// Presses the guest's power button; the VMM ends the VM at the deadline.
    pub(crate) fn shutdown(&mut self, timeout: Duration) -> Result<()> {
        self.client.shutdown(timeout)
    }

    pub(crate) fn create_snapshot(&mut self, params: &CreateSnapshotParams) -> Result<()> {
        self.in_bulk(|client| client.put("/snapshot/create", params))
    }

    pub(crate) fn load_snapshot(&mut self, params: &LoadSnapshotParams) -> Result<()> {
        self.in_bulk(|client| client.put("/snapshot/load", params))
    }

    pub(crate) fn fork(&mut self, params: &ForkParams) -> Result<ForkReport> {
        self.in_bulk(|client| client.post("/ext/v1/fork", params)?.json())
    }

    pub(crate) fn attach_drive(&mut self, spec: &DriveSpec) -> Result<()> {
        self.client.put(&format!("/ext/v1/drives/{}", spec.drive_id), spec)
    }

    pub(crate) fn attach_net(&mut self, spec: &NetSpec) -> Result<()> {
        self.client.put(&format!("/ext/v1/network-interfaces/{}", spec.iface_id), spec)
    }

    pub(crate) fn attach_filesystem(&mut self, spec: &FilesystemSpec) -> Result<()> {
        self.client.put(&format!("/ext/v1/filesystems/{}", spec.fs_id), spec)
    }

    pub(crate) fn detach_filesystem(&mut self, id: &str) -> Result<()> {
        self.client.delete(&format!("/ext/v1/filesystems/{id}"))
    }

    pub(crate) fn detach_drive(&mut self, id: &str) -> Result<()> {
        self.client.delete(&format!("/ext/v1/drives/{id}"))
    }

    pub(crate) fn detach_net(&mut self, id: &str) -> Result<()> {
        self.client.delete(&format!("/ext/v1/network-interfaces/{id}"))
    }

    /// The VMM's metrics as Prometheus' text.
    pub(crate) fn metrics(&mut self) -> Result<String> {
        let answer = self.client.act(&VmmAction::GetMetrics)?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    pub(crate) fn events(&self, follow: bool) -> Result<Events> {
        self.client.events(follow)
    }

    /// Gives a request the time that copying memory and disks takes.
    fn in_bulk<T>(&mut self, request: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        self.client.set_timeout(BULK_LIMIT);
        let outcome = request(&mut self.client);
        self.client.set_timeout(self.limit);
        outcome
    }
}
