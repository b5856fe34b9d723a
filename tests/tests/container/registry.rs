//! Images between `vmctl` and clients that we didn't write: skopeo, podman, a real registry. And what
//! is left when a pull can't end as it should.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::containers::{Host, Registry, finish};
use serde_json::Value;
use tempfile::TempDir;

use super::support::host;

/// Runs a client, which must succeed; returns its standard output.
fn client<const N: usize>(program: &str, arguments: [&str; N]) -> Result<String> {
    let said = finish(Command::new(program).args(arguments), b"")?;
    ensure!(said.code == 0, "{program} {arguments:?}: {said:#?}");
    Ok(said.out)
}

/// podman with a storage of its own, which needs no overlay.
fn podman<const N: usize>(host: &Host, arguments: [&str; N]) -> Result<String> {
    let (root, run) = (host.path("podman"), host.path("podman-run"));
    let mut command = Command::new("podman");
    command.arg("--root").arg(&root).arg("--runroot").arg(&run);
    let said = finish(command.args(["--storage-driver", "vfs"]).args(arguments), b"")?;
    ensure!(said.code == 0, "podman {arguments:?}: {said:#?}");
    Ok(said.out)
}

/// Makes an image of two layers of files, with what registries and clients trip over.
fn make(host: &Host, name: &str) -> Result<()> {
    let context = host.path("context");
    fs::create_dir_all(&context)?;
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nADD one /\nADD two /sub/\nCMD [\"/one\"]\n",
    )?;
    fs::write(context.join("one"), "the first layer's file\n".repeat(40_000))?;
    fs::write(context.join("two"), "the second layer's file\n")?;
    host.ok(&format!("build -q -t {name} {}", context.display()))?;
    Ok(())
}

/// Another store, which has nothing of what was built.
struct Store<'a> {
    host: &'a Host,
    data: TempDir,
}

impl<'a> Store<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        Ok(Self { host, data: tempfile::tempdir()? })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.host.command(line.split_whitespace());
        command.env("VMCTL_DATA_DIR", self.data.path());
        command
    }

    /// Runs `vmctl`, which must succeed; returns its standard output.
    fn ok(&self, line: &str) -> Result<String> {
        let said = finish(&mut self.command(line), b"")?;
        ensure!(said.code == 0, "vmctl {line}: {said:#?}");
        Ok(said.out)
    }

    /// What `vmctl image inspect` says of an image.
    fn inspect(&self, name: &str) -> Result<Value> {
        let mut said: Value = serde_json::from_str(&self.ok(&format!("image inspect {name}"))?)?;
        Ok(said[0].take())
    }
}

/// An image's identifier, without `sha256:`.
fn id(value: &Value) -> Result<String> {
    let id = value["Id"].as_str().context("an image without Id")?;
    Ok(id.trim_start_matches("sha256:").to_owned())
}

/// Makes an image, and pushes it to the host's registry; returns its identifier.
fn push(host: &Host, name: &str) -> Result<String> {
    make(host, name)?;
    host.ok(&format!("push {name}"))?;
    let said: Value = serde_json::from_str(&host.ok(&format!("image inspect {name}"))?)?;
    id(&said[0])
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn skopeo_and_podman_read_what_was_pushed() -> Result<()> {
    let host = host()?;
    let name = format!("{}/pushed/app:1", host.registry.address);
    let wanted = push(&host, &name)?;

    let said = client("skopeo", ["inspect", "--tls-verify=false", &format!("docker://{name}")])?;
    let found: Value = serde_json::from_str(&said)?;
    ensure!(found["Layers"].as_array().is_some_and(|it| it.len() == 2), "{found}");
    let digest = found["Digest"].as_str().context("no digest")?;
    host.ok(&format!("image inspect {}/pushed/app@{digest}", host.registry.address))?;
    // A copy reads and checks every byte.
    let copy = format!("dir:{}", path(&host.path("copy")));
    client("skopeo", ["copy", "--src-tls-verify=false", &format!("docker://{name}"), &copy])?;

    podman(&host, ["pull", "--quiet", "--tls-verify=false", &name])?;
    ensure!(podman(&host, ["images", "--quiet", "--no-trunc"])?.contains(&wanted));
    let mounted = podman(&host, ["image", "mount", &name])?;
    let root = Path::new(mounted.trim());
    ensure!(fs::read_to_string(root.join("sub/two"))? == "the second layer's file\n");
    ensure!(fs::read(root.join("one"))? == fs::read(host.path("context/one"))?);
    podman(&host, ["image", "unmount", &name])?;
    Ok(())
}

#[test]
fn what_skopeo_and_podman_wrote_is_pulled() -> Result<()> {
    let host = host()?;
    let at = host.registry.address;
    let name = format!("{at}/written/app:1");
    let wanted = push(&host, &name)?;
    for format in ["oci", "v2s2"] {
        let (from, to) = (format!("docker://{name}"), format!("docker://{at}/written/{format}:1"));
        let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        client("skopeo", ["copy", "--format", format, insecure[0], insecure[1], &from, &to])?;
        let store = Store::new(&host)?;
        store.ok(&format!("pull -q {at}/written/{format}:1"))?;
        ensure!(id(&store.inspect(&format!("{at}/written/{format}:1"))?)? == wanted, "{format}");
    }
    podman(&host, ["pull", "--quiet", "--tls-verify=false", &name])?;
    let podmans = format!("{at}/written/podman:1");
    podman(&host, ["push", "--quiet", "--tls-verify=false", &name, &podmans])?;
    let store = Store::new(&host)?;
    store.ok(&format!("pull -q {podmans}"))?;
    ensure!(id(&store.inspect(&podmans)?)? == wanted, "podman's push is another image");
    Ok(())
}

#[test]
fn layers_that_skopeo_compressed_by_zstd_are_pulled() -> Result<()> {
    let host = host()?;
    let name = format!("{}/zstd/app:1", host.registry.address);
    let wanted = push(&host, &name)?;
    let plain = format!("dir:{}", path(&host.path("plain")));
    let from = format!("docker://{name}");
    client("skopeo", ["copy", "--src-tls-verify=false", "--dest-decompress", &from, &plain])?;
    // To another registry: skopeo has the first one use its blobs again, by gzip.
    let other = Registry::private("user", "pass")?;
    let to = format!("docker://{}/zstd:1", other.address);
    let mut copy = Command::new("skopeo");
    copy.args([
        "copy",
        "--format",
        "oci",
        "--dest-compress-format",
        "zstd",
        "--dest-tls-verify=false",
    ]);
    let said = finish(copy.args(["--dest-creds", "user:pass", &plain, &to]), b"")?;
    ensure!(said.code == 0, "{said:#?}");
    let raw = ["inspect", "--raw", "--tls-verify=false", "--creds", "user:pass", &to];
    ensure!(client("skopeo", raw)?.contains("tar+zstd"), "skopeo didn't compress by zstd");

    let store = Store::new(&host)?;
    let mut login = store.command(&format!("login -u user --password-stdin {}", other.address));
    ensure!(finish(&mut login, b"pass")?.code == 0);
    let name = format!("{}/zstd:1", other.address);
    store.ok(&format!("pull -q {name}"))?;
    ensure!(id(&store.inspect(&name)?)? == wanted);
    Ok(())
}

#[test]
fn archives_go_from_client_to_client() -> Result<()> {
    let host = host()?;
    make(&host, "archived:1")?;
    let said: Value = serde_json::from_str(&host.ok("image inspect archived:1")?)?;
    let wanted = id(&said[0])?;
    let saved = path(&host.path("saved.tar"));
    host.ok(&format!("save -o {saved} archived:1"))?;
    // It's Docker's and an OCI layout at once.
    for (kind, directory) in [("docker-archive", "from-docker"), ("oci-archive", "from-oci")] {
        let to = format!("dir:{}", path(&host.path(directory)));
        client("skopeo", ["copy", &format!("{kind}:{saved}"), &to])?;
    }
    podman(&host, ["load", "--quiet", "--input", &saved])?;
    ensure!(podman(&host, ["images", "--quiet", "--no-trunc"])?.contains(&wanted));

    for format in ["docker-archive", "oci-archive"] {
        let archive = path(&host.path(&format!("podmans-{format}.tar")));
        podman(&host, ["save", "--quiet", "--format", format, "--output", &archive, "archived:1"])?;
        let store = Store::new(&host)?;
        let said = store.ok(&format!("load -i {archive}"))?;
        ensure!(said == "Loaded image: archived:1\n", "{said}");
        ensure!(id(&store.inspect("archived:1")?)? == wanted, "{format}");
    }
    Ok(())
}

#[test]
fn killed_pull_leaves_a_store_that_the_next_pull_completes() -> Result<()> {
    let host = host()?;
    let name = format!("{}/killed/app:1", host.registry.address);
    let wanted = push(&host, &name)?;
    // After as many lines as it says until then.
    for lines in 0..5 {
        let store = Store::new(&host)?;
        let mut pull = store.command(&format!("pull {name}"));
        let mut child = pull.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("standard output is piped")?);
        out.lines().take(lines).try_for_each(|line| line.map(drop))?;
        child.kill()?;
        child.wait()?;
        store.ok(&format!("pull -q {name}"))?;
        ensure!(id(&store.inspect(&name)?)? == wanted);
        // Every byte of it is there.
        store.ok(&format!("save -o {} {name}", host.path("whole.tar").display()))?;
    }
    Ok(())
}

#[test]
fn several_that_pull_the_same_all_have_it() -> Result<()> {
    let host = host()?;
    let name = format!("{}/several/app:1", host.registry.address);
    let wanted = push(&host, &name)?;
    let store = Store::new(&host)?;
    let start = || store.command(&format!("pull -q {name}")).stdout(Stdio::null()).spawn();
    let pulls = (0..4).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    for mut pull in pulls {
        ensure!(pull.wait()?.success());
    }
    ensure!(id(&store.inspect(&name)?)? == wanted);
    Ok(())
}

#[test]
fn full_disk_is_an_error_and_leaves_a_store_that_works() -> Result<()> {
    let host = host()?;
    let name = format!("{}/full/app:1", host.registry.address);
    push(&host, &name)?;
    // It's full before there's a database, while it's made, or at a layer.
    for size in ["20k", "100k", "200k", "300k", "400k", "600k"] {
        let store = Store::new(&host)?;
        let small = path(store.data.path());
        client("mount", ["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &small])?;
        let pulled = pull_into(&store, &small, &name);
        client("umount", [&small])?;
        pulled.with_context(|| format!("a disk of {size}"))?;
    }
    Ok(())
}

fn pull_into(store: &Store<'_>, small: &str, name: &str) -> Result<()> {
    let said = finish(&mut store.command(&format!("pull -q {name}")), b"")?;
    ensure!(said.code == 1 && said.err.contains("No space left"), "{said:#?}");
    client("mount", ["-o", "remount,size=50m", small])?;
    ensure!(store.ok("images -q")?.is_empty());
    store.ok(&format!("pull -q {name}"))?;
    Ok(())
}
