//! Paths that hold for commands in other directories too, and for VMs out of a snapshot.

use std::path::{Path, PathBuf};

use api::config::{ConsoleOutput, DriveBackend, VmConfig};

use crate::registry::MAX_SOCKET_PATH_BYTES;

/// Makes the paths of a configuration absolute.
pub(super) fn make_absolute(config: &mut VmConfig) {
    for file in files(config) {
        *file = absolute(file);
    }
    for socket in sockets(config) {
        *socket = absolute_socket(socket);
    }
}

fn files(config: &mut VmConfig) -> impl Iterator<Item = &mut PathBuf> {
    let mut files = vec![&mut config.boot.kernel];
    files.extend(&mut config.boot.initrd);
    for drive in &mut config.drives {
        if let DriveBackend::Image(image) = &mut drive.backend {
            files.push(image);
        }
        files.extend(drive.backing.iter_mut().map(|backing| &mut backing.path_on_host));
        files.extend(&mut drive.concat);
    }
    files.extend(config.pmem.iter_mut().map(|pmem| &mut pmem.path));
    for filesystem in &mut config.filesystems {
        files.extend(filesystem.shares.iter_mut().map(|share| &mut share.path));
    }
    if let ConsoleOutput::File(file) = &mut config.console.output {
        files.push(file);
    }
    files.extend(config.serial.as_mut().and_then(|serial| serial.path.as_mut()));
    files.extend(config.logger.as_mut().and_then(|logger| logger.path.as_mut()));
    files.extend(config.metrics.as_mut().map(|metrics| &mut metrics.path));
    files.into_iter()
}

fn sockets(config: &mut VmConfig) -> impl Iterator<Item = &mut PathBuf> {
    let mut sockets: Vec<_> =
        config.vsock.as_mut().map(|it| &mut it.uds_path).into_iter().collect();
    if let ConsoleOutput::Socket(socket) = &mut config.console.output {
        sockets.push(socket);
    }
    for drive in &mut config.drives {
        if let DriveBackend::VhostUser(socket) = &mut drive.backend {
            sockets.push(socket);
        }
    }
    sockets.into_iter()
}

/// The absolute path of a socket, unless no socket can have one of its length: then it's found from
/// here alone.
pub(super) fn absolute_socket(path: &Path) -> PathBuf {
    let whole = absolute(path);
    if whole.as_os_str().len() > MAX_SOCKET_PATH_BYTES { path.to_owned() } else { whole }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use api::config::VmSpec;
    use serde_json::{Value, json};

    use super::*;

    fn spec(path: impl Fn(&str) -> String, socket: impl Fn(&str) -> String) -> Value {
        json!({
            "boot-source": { "kernel_image_path": path("k"), "initrd_path": path("i") },
            "drives": [
                { "drive_id": "a", "path_on_host": path("a"), "is_root_device": false,
                  "format": "qcow2",
                  "backing": [{ "path_on_host": path("below"), "format": "raw" }] },
                { "drive_id": "b", "socket": socket("vu"), "is_root_device": false },
                { "drive_id": "c", "path_on_host": path("c"), "is_root_device": false,
                  "is_read_only": true, "concat": [path("c2")] },
            ],
            "pmem": [{ "id": "p", "path_on_host": path("p") }],
            "filesystems": [{ "fs_id": "f", "shares": [{ "name": "0", "path": path("d") }] }],
            "vsock": { "guest_cid": 3, "uds_path": socket("v") },
            "console": { "mode": "socket", "path": socket("c") },
            "logger": { "log_path": path("l") },
            "metrics": { "metrics_path": path("m") },
        })
    }

    fn config(spec: Value) -> VmConfig {
        serde_json::from_value::<VmSpec>(spec).unwrap().validate().unwrap()
    }

    #[test]
    fn every_path_of_a_configuration_is_made_absolute() {
        let here = std::env::current_dir().unwrap();
        let in_here = |name: &str| here.join(name).display().to_string();
        let mut relative = config(spec(str::to_owned, str::to_owned));
        make_absolute(&mut relative);
        assert_eq!(relative, config(spec(in_here, in_here)));
        let before = relative.clone();
        make_absolute(&mut relative);
        assert_eq!(relative, before);
    }

    #[test]
    fn sockets_path_that_would_become_too_long_stays() {
        let long = "s".repeat(MAX_SOCKET_PATH_BYTES);
        assert_eq!(absolute_socket(Path::new(&long)), Path::new(&long));
        assert!(absolute_socket(Path::new("s")).is_absolute());
    }
}
