//! Finds out whether this machine's KVM can run Linux, or the lab is needed.

use std::fs::File;
use std::path::Path;

/// Where guests are to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine, by the KVM module of the given name.
    Native(&'static str),
    /// In the lab, for the given reason.
    Lab(String),
}

/// Tells where guests can be run.
///
/// The test is for the modules that drive Intel's and AMD's hardware virtualization. KVM has other
/// back ends, which answer on `/dev/kvm` just as well but can't run an unmodified kernel.
pub(crate) fn place() -> Place {
    let loaded = |module: &&str| Path::new("/sys/module").join(module).is_dir();
    let Some(module) = ["kvm_intel", "kvm_amd"].into_iter().find(loaded) else {
        return Place::Lab("this machine has no KVM with Intel's VMX or AMD's SVM".to_owned());
    };
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Place::Native(module),
        Err(error) => Place::Lab(format!("/dev/kvm can't be opened: {error}")),
    }
}
