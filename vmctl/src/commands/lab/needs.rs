//! What an exercise needs of this host, and how to get it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{env, fs};

use super::manifest::Need;
use crate::vmm_process;

/// Programs whose Debian package has another name.
const PACKAGES: [(&str, &str); 4] =
    [("nft", "nftables"), ("ip", "iproute2"), ("ping", "iputils-ping"), ("ss", "iproute2")];

impl Need {
    /// None if it's there, else what's missing and how to get it.
    pub(super) fn missing(&self) -> Option<(String, String)> {
        match self {
            Self::Root if rustix::process::geteuid().is_root() => None,
            Self::Root => Some(("root".to_owned(), "run it with sudo".to_owned())),
            Self::Kvm => kvm_missing().map(|because| {
                (format!("KVM ({because})"), "vmctl doctor says what to do".to_owned())
            }),
            Self::Command(name) if is_on_path(name) => None,
            Self::Command(name) => {
                let package = PACKAGES.iter().find(|(command, _)| command == name);
                let package = package.map_or(name.as_str(), |(_, package)| package);
                Some((format!("the program {name}"), format!("apt install {package}, on Debian")))
            }
        }
    }
}

/// Why VMs can't be run here.
fn kvm_missing() -> Option<String> {
    match vmm_process::probe_host() {
        Ok(report) if report.linux_guests.can_run => None,
        Ok(report) => Some(report.linux_guests.because),
        Err(error) => Some(error.to_string()),
    }
}

fn is_on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where root's programs are, which an ordinary user's PATH lacks on Debian.
    let further = ["/usr/sbin", "/sbin"].map(Into::into);
    env::split_paths(&path)
        .chain(further)
        .any(|dir: std::path::PathBuf| is_program(&dir.join(name)))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_comes_with_its_package() {
        assert_eq!(Need::Command("sh".to_owned()).missing(), None);
        let (what, how) = Need::Command("no-such-program".to_owned()).missing().unwrap();
        assert_eq!(what, "the program no-such-program");
        assert!(how.contains("apt install no-such-program"), "{how}");
    }
}
