//! `vmctl` without root's rights: what it may use it uses, and what it may not it names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration_tests::artifacts;
use integration_tests::network::Tap;

use crate::run::{Refusal, Run, Workshop, run};

/// Whom `vmctl` runs as.
const USER: &str = "1001";

/// Makes a /dev of its own, with /dev/kvm of the mode $1 (none if it's "absent"), and runs the rest
/// as the user $2.
const IN_OWN_DEV: &str = r#"set -e
mode=$1 user=$2
shift 2
mount -t tmpfs -o mode=755 dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/urandom c 1 9
mkdir /dev/net
mknod -m 666 /dev/net/tun c 10 200
[ "$mode" = absent ] || mknod -m "$mode" /dev/kvm c 10 232
exec setpriv --reuid="$user" --regid="$user" --clear-groups -- "$@""#;

/// Programs and images where any user may read them.
struct Installed {
    workshop: Workshop,
}

impl Installed {
    fn new() -> Result<Self> {
        let workshop = Workshop::new()?;
        fs::set_permissions(workshop.path(""), fs::Permissions::from_mode(0o755))?;
        for (from, name, mode) in [
            (artifacts::vmctl(), "vmctl", 0o755),
            (artifacts::vmm(), "vmm", 0o755),
            (artifacts::lean_kernel(), "vmlinux", 0o644),
            (artifacts::lean_initrd(), "initrd", 0o644),
        ] {
            let to = workshop.path(name);
            fs::copy(&from, &to).with_context(|| format!("copy {from:?}"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
        Ok(Self { workshop })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workshop.path(name)
    }

    /// Boots a guest that powers off at once, as the user, with such a /dev/kvm.
    fn boot(&self, kvm_mode: &str, arguments: &[&str]) -> Result<Run> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", IN_OWN_DEV, "sh", kvm_mode, USER]);
        command.arg(self.path("vmctl")).args(["boot", "--kernel"]).arg(self.path("vmlinux"));
        command.arg("--initrd").arg(self.path("initrd"));
        command.args(["--cmdline", "quiet reboot=k panic=-1 rdinit=/bin/poweroff -- -f"]);
        command.args(arguments);
        run(command)
    }
}

#[test]
fn host_without_kvm_is_refused_with_what_to_do() -> Result<()> {
    let run = Installed::new()?.boot("absent", &[])?;
    let place = "there is no /dev/kvm on this host";
    Refusal { code: 1, place, words: "", hint: Some("load the module") }.check(&run)
}

#[test]
fn user_who_may_not_use_kvm_is_refused_with_what_to_do() -> Result<()> {
    let run = Installed::new()?.boot("600", &[])?;
    let place = "this user may not open /dev/kvm";
    Refusal { code: 1, place, words: "Permission denied", hint: Some("usermod -aG kvm") }
        .check(&run)
}

#[test]
fn user_boots_with_their_own_tap_and_is_refused_anothers() -> Result<()> {
    let installed = Installed::new()?;
    let own = Tap::new("vmctl-own", &["user", USER])?;
    let run = installed.boot("666", &["--net", &format!("tap={}", own.name)])?;
    ensure!(run.code == 0 && run.stderr.is_empty(), "{run:?}");

    let other = Tap::new("vmctl-other", &["user", "1000"])?;
    let before = other.settings()?;
    let run = installed.boot("666", &["--net", &format!("tap={}", other.name)])?;
    let place = "--net tap=vmctl-other: ";
    let (words, hint) = ("belongs to another user", Some("make the TAP yours"));
    Refusal { code: 1, place, words, hint }.check(&run)?;
    let after = other.settings()?;
    ensure!(after == before, "the TAP changed from {before} to {after}");
    Ok(())
}

#[test]
fn user_is_refused_a_disk_of_anothers_with_advice_by_what_is_denied() -> Result<()> {
    let installed = Installed::new()?;
    let disk = installed.workshop.sparse("disk.img", 1 << 20)?;
    let flag = disk.display().to_string();
    let place = format!("--disk {flag}: ");
    for (mode, words) in [(0o644, "can't be opened for writing"), (0o600, "Permission denied")] {
        fs::set_permissions(&disk, fs::Permissions::from_mode(mode))?;
        let run = installed.boot("666", &["--disk", &flag])?;
        let hint = Some("attach it with ,ro");
        Refusal { code: 1, place: &place, words, hint }.check(&run)?;
    }
    Ok(())
}
