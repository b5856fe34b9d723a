//! Images and volumes without a registry and without KVM: what's printed, and where, and with which
//! exit code.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use super::support::{run_with_input, stderr, stdout, vmctl};

fn run(dir: &Path, words: &[&str]) -> Output {
    let mut command = vmctl(dir, words);
    command.env("VMCTL_DATA_DIR", dir.join("data")).env("DOCKER_CONFIG", dir.join("docker"));
    command.stdin(Stdio::null()).output().unwrap()
}

/// What a command that must succeed has printed.
fn ok(dir: &Path, words: &[&str]) -> String {
    let output = run(dir, words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
    stdout(&output)
}

/// An archive of one file.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(4);
    builder.append_data(&mut header, "file", &b"text"[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn image_is_imported_named_saved_removed_and_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("root.tar"), archive()).unwrap();
    let id = ok(dir, &["import", "--change", "CMD [\"true\"]", "root.tar", "tiny:1"]);
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(ok(dir, &["images", "-q", "--no-trunc"]), id);
    ok(dir, &["tag", "tiny:1", "localhost:5000/other"]);
    let names = ok(dir, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["localhost:5000/other:latest", "tiny:1"]);
    assert_eq!(ok(dir, &["inspect", "-f", "{{json .Config.Cmd}}", "tiny:1"]), "[\"true\"]\n");
    ok(dir, &["save", "-o", "saved.tar", "tiny:1"]);
    assert_eq!(
        ok(dir, &["rmi", "localhost:5000/other"]),
        "Untagged: localhost:5000/other:latest\n"
    );
    let removed = ok(dir, &["image", "rm", "tiny:1"]);
    assert!(removed.starts_with("Untagged: tiny:1\nDeleted: sha256:"), "{removed}");
    assert_eq!(ok(dir, &["images", "-q"]), "");
    assert_eq!(ok(dir, &["load", "-i", "saved.tar"]), "Loaded image: tiny:1\n");
    assert_eq!(ok(dir, &["images", "-q", "--no-trunc"]), id);

    // An archive of ours is an OCI layout, too.
    ok(dir, &["rmi", "tiny:1"]);
    fs::create_dir(dir.join("layout")).unwrap();
    tar::Archive::new(fs::File::open(dir.join("saved.tar")).unwrap())
        .unpack(dir.join("layout"))
        .unwrap();
    assert_eq!(ok(dir, &["load", "-i", "layout"]), "Loaded image: tiny:1\n");
    assert_eq!(ok(dir, &["images", "-q", "--no-trunc"]), id);
    let events = ok(dir, &["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"]);
    let mut events: Vec<_> = events.lines().collect();
    // One for each name, and for each image that goes with them.
    events.dedup();
    assert_eq!(events, ["import", "tag", "untag", "delete", "load", "untag", "delete", "load"]);
}

#[test]
fn image_that_a_container_uses_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("root.tar"), archive()).unwrap();
    ok(dir, &["import", "root.tar", "tiny"]);
    let container = ok(dir, &["create", "--pull", "never", "tiny", "true"]);
    let output = run(dir, &["rmi", "tiny"]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("is using") && error.contains(&container[..12]), "{error}");
    let pruned = ok(dir, &["image", "prune", "--all", "--force"]);
    assert_eq!(pruned, "Total reclaimed space: 0B\n");
    ok(dir, &["rm", container.trim()]);
    ok(dir, &["rmi", "tiny"]);
}

#[test]
fn mistakes_are_told_with_a_hint_and_dockers_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    for (line, code, words) in [
        ("rmi no-such-image", 1, "error: no such image: no-such-image"),
        ("tag no-such-image x", 1, "no-such-image"),
        ("tag x Bad/NAME", 1, "lowercase"),
        ("pull Bad/NAME", 1, "lowercase"),
        ("pull 127.0.0.1:1/nobody/there", 1, "hint: nobody listens at 127.0.0.1:1"),
        ("push no-such-image", 1, "no-such-image"),
        ("run --pull never no-such-image", 125, "no-such-image"),
        ("run Bad/NAME true", 125, "lowercase"),
        (
            "run 127.0.0.1:1/nobody/there",
            125,
            "Unable to find image '127.0.0.1:1/nobody/there:latest' locally",
        ),
        ("import http://host/x.tar", 2, "is a URL: fetch it first"),
        ("load -i no-such-file", 1, "can't read no-such-file"),
        ("inspect no-such-thing", 1, "error: no such object: no-such-thing"),
        ("image inspect no-such-thing", 1, "hint: vmctl images lists images"),
        ("volume rm no-such-volume", 1, "no-such-volume"),
        ("images --filter bogus=1", 2, "there are dangling, label"),
        ("login", 1, "hint: give -u NAME and --password-stdin"),
        ("cp a b", 2, "CONTAINER:PATH"),
        ("cp no-such-container:/x .", 1, "no-such-container"),
        ("cp . no-such-container:/x", 1, "no-such-container"),
    ] {
        let words_of: Vec<_> = line.split_whitespace().collect();
        let output = run(dir.path(), &words_of);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "vmctl {line}: {error}");
        assert!(error.contains(words), "vmctl {line}: {error:?} lacks {words:?}");
    }
}

#[test]
fn volume_is_made_listed_inspected_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(ok(dir, &["volume", "create", "--label", "a=b", "data"]), "data\n");
    assert_eq!(ok(dir, &["volume", "ls"]), "DRIVER    VOLUME NAME\nlocal     data\n");
    assert_eq!(ok(dir, &["volume", "ls", "-q", "--filter", "label=a=c"]), "");
    assert_eq!(ok(dir, &["inspect", "-f", "{{.Driver}} {{.Labels.a}}", "data"]), "local b\n");
    assert_eq!(ok(dir, &["volume", "rm", "data"]), "data\n");
    assert_eq!(ok(dir, &["volume", "ls", "-q"]), "");
}

#[test]
fn prune_that_nobody_confirms_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &["volume", "create", "data"]);
    let mut command = vmctl(dir.path(), &["volume", "prune", "--all"]);
    command.env("VMCTL_DATA_DIR", dir.path().join("data"));
    let output = run_with_input(&mut command, b"n\n");
    assert!(stderr(&output).starts_with("WARNING! This will remove all local volumes"));
    assert_eq!(ok(dir.path(), &["volume", "ls", "-q"]), "data\n");
    let output = run_with_input(&mut command, b"y\n");
    assert!(stdout(&output).starts_with("Deleted Volumes:\ndata\n"), "{}", stdout(&output));
}
