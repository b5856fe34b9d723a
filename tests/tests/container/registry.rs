//! Images between `vmctl` and clients that we didn't write: skopeo, podman, a real registry. And what
//! is left when a pull can't end as it should.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::containers::{Host, finish};
use serde_json::Value;

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
    fs::write(context.join("one"), "the first layer's file\n".repeat(10_000))?;
    fs::write(context.join("two"), "the second layer's file\n")?;
    host.ok(&format!("build -q -t {name} {}", context.display()))?;
    Ok(())
}

/// An image's identifier, without `sha256:`.
fn id(host: &Host, name: &str) -> Result<String> {
    let said = host.ok(&format!("image inspect {name}"))?;
    let value: Value = serde_json::from_str(&said)?;
    let id = value[0]["Id"].as_str().context("an image without Id")?;
    Ok(id.trim_start_matches("sha256:").to_owned())
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn skopeo_and_podman_read_what_was_pushed() -> Result<()> {
    let host = host()?;
    let name = format!("{}/pushed/app:1", host.registry.address);
    make(&host, &name)?;
    host.ok(&format!("push {name}"))?;

    let said = client("skopeo", ["inspect", "--tls-verify=false", &format!("docker://{name}")])?;
    let found: Value = serde_json::from_str(&said)?;
    ensure!(found["Layers"].as_array().is_some_and(|it| it.len() == 2), "{found}");
    let digest = found["Digest"].as_str().context("no digest")?;
    let by_digest = format!("{}/pushed/app@{digest}", host.registry.address);
    ensure!(id(&host, &by_digest)? == id(&host, &name)?, "{by_digest} is another image");
    // A copy reads and checks every byte.
    let copy = format!("dir:{}", path(&host.path("copy")));
    client("skopeo", ["copy", "--src-tls-verify=false", &format!("docker://{name}"), &copy])?;

    podman(&host, ["pull", "--quiet", "--tls-verify=false", &name])?;
    ensure!(podman(&host, ["images", "--quiet", "--no-trunc"])?.contains(&id(&host, &name)?));
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
    make(&host, &name)?;
    host.ok(&format!("push {name}"))?;
    let wanted = id(&host, &name)?;
    for (tag, options) in [
        ("oci", ["--format", "oci"]),
        ("v2s2", ["--format", "v2s2"]),
        ("zstd", ["--dest-compress-format", "zstd"]),
    ] {
        let [option, value] = options;
        let (from, to) = (format!("docker://{name}"), format!("docker://{at}/written/by:{tag}"));
        let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        client("skopeo", ["copy", option, value, insecure[0], insecure[1], &from, &to])?;
        host.ok(&format!("rmi --force {wanted}"))?;
        host.ok(&format!("pull -q {at}/written/by:{tag}"))?;
        // Converted, the configuration is another one, but the layers are the same.
        let layers = |name: &str| -> Result<Value> {
            let value: Value = serde_json::from_str(&host.ok(&format!("image inspect {name}"))?)?;
            Ok(value[0]["RootFS"]["Layers"].clone())
        };
        let found = layers(&format!("{at}/written/by:{tag}"))?;
        host.ok(&format!("pull -q {name}"))?;
        ensure!(found == layers(&name)?, "{tag}: {found}");
        ensure!(found.as_array().is_some_and(|it| it.len() == 2), "{tag}: {found}");
        host.ok(&format!("rmi {at}/written/by:{tag}"))?;
    }
    podman(&host, ["pull", "--quiet", "--tls-verify=false", &name])?;
    let podmans = format!("{at}/written/podman:1");
    podman(&host, ["push", "--quiet", "--tls-verify=false", &name, &podmans])?;
    host.ok(&format!("rmi {name}"))?;
    host.ok(&format!("pull -q {podmans}"))?;
    ensure!(id(&host, &podmans)? == wanted, "podman's push is another image");
    Ok(())
}

#[test]
fn archives_go_from_client_to_client() -> Result<()> {
    let host = host()?;
    make(&host, "archived:1")?;
    let wanted = id(&host, "archived:1")?;
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
        host.ok(&format!("rmi --force {wanted}"))?;
        let said = host.ok(&format!("load -i {archive}"))?;
        ensure!(said.contains("Loaded image"), "{said}");
        host.ok(&format!("image inspect {wanted}"))?;
    }
    Ok(())
}

#[test]
fn killed_pull_leaves_a_store_that_the_next_pull_completes() -> Result<()> {
    let host = host()?;
    let name = format!("{}/killed/app:1", host.registry.address);
    make(&host, &name)?;
    host.ok(&format!("push {name}"))?;
    let wanted = id(&host, &name)?;
    for _ in 0..4 {
        host.ok(&format!("rmi --force {wanted}"))?;
        let mut pull = host.command(["pull", &name]);
        let mut child = pull.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = child.stdout.take().context("standard output is piped")?;
        // Wherever it is then.
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        child.kill()?;
        child.wait()?;
        host.ok(&format!("pull -q {name}"))?;
        ensure!(id(&host, &name)? == wanted);
        host.ok(&format!("save -o {} {name}", host.path("whole.tar").display()))?;
    }
    Ok(())
}

#[test]
fn several_that_pull_the_same_all_have_it() -> Result<()> {
    let host = host()?;
    let name = format!("{}/several/app:1", host.registry.address);
    make(&host, &name)?;
    host.ok(&format!("push {name}"))?;
    let wanted = id(&host, &name)?;
    host.ok(&format!("rmi --force {wanted}"))?;
    let start = || host.command(["pull", "-q", &name]).stdout(Stdio::null()).spawn();
    let pulls = (0..4).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    for mut pull in pulls {
        ensure!(pull.wait()?.success());
    }
    ensure!(id(&host, &name)? == wanted);
    Ok(())
}

#[test]
fn full_disk_is_an_error_and_leaves_a_store_that_works() -> Result<()> {
    let host = host()?;
    let name = format!("{}/full/app:1", host.registry.address);
    make(&host, &name)?;
    host.ok(&format!("push {name}"))?;
    let small = path(&host.path("small"));
    fs::create_dir_all(&small)?;
    // Enough for the database, not for the layers.
    client("mount", ["-t", "tmpfs", "-o", "size=300k", "tmpfs", &small])?;
    let pulled = pull_into(&host, &small, &name);
    client("umount", [&small])?;
    pulled
}

fn pull_into(host: &Host, small: &str, name: &str) -> Result<()> {
    let vmctl =
        |arguments: &[&str]| finish(host.command(arguments).env("VMCTL_DATA_DIR", small), b"");
    let said = vmctl(&["pull", "-q", name])?;
    ensure!(said.code == 1, "{said:#?}");
    ensure!(said.err.contains("No space left") || said.err.contains("full"), "{said:#?}");
    ensure!(vmctl(&["images", "-q"])?.out.is_empty());
    client("mount", ["-o", "remount,size=50m", small])?;
    let said = vmctl(&["pull", "-q", name])?;
    ensure!(said.code == 0, "{said:#?}");
    Ok(())
}
