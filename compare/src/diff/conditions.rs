//! Whether two reports can be compared.

use crate::model::{Report, Way};
use crate::report::text::visible;

/// What was different about the two, other than what was measured.
pub(super) fn warnings(old: &Report, new: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut compare = |what: &str, old: String, new: String| {
        if old != new {
            warnings.push(format!("{what}: {} before, {} now", visible(&old), visible(&new)));
        }
    };
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let (before, after) = (&old.host, &new.host);
    compare("the host's processor", before.cpu_model.clone(), after.cpu_model.clone());
    compare("its architecture", before.architecture.clone(), after.architecture.clone());
    compare("its processors", before.cpus.to_string(), after.cpus.to_string());
    compare("its kernel", before.kernel.clone(), after.kernel.clone());
    compare("its memory", mebibytes(before.memory_bytes), mebibytes(after.memory_bytes));
    compare("its module of KVM", or_none(&before.kvm_module), or_none(&after.kvm_module));
    compare("its governor", or_none(&before.cpu_governor), or_none(&after.cpu_governor));
    compare("an emulated host", yes_no(before.emulated), yes_no(after.emulated));
    let counts = (before.counts_instructions, after.counts_instructions);
    compare("a clock that counts instructions", yes_no(counts.0), yes_no(counts.1));
    compare("the image", old.image.id.clone(), new.image.id.clone());
    let (before, after) = (&old.settings, &new.settings);
    compare("an instance's processors", before.cpus.to_string(), after.cpus.to_string());
    compare("an instance's memory", mib(before.memory_mib), mib(after.memory_mib));
    compare("the command", before.command.join(" "), after.command.join(" "));
    compare("the work's scale", before.scale.to_string(), after.scale.to_string());
    let port = |port: Option<u16>| port.map_or_else(|| "none".to_owned(), |it| it.to_string());
    compare("the server's port", port(before.port), port(after.port));
    compare("the server's path", before.path.clone(), after.path.clone());
    for way in &old.ways {
        let other = new.ways.iter().find(|other| other.id == way.id);
        compare(way.id.title(), how(Some(way)), how(other));
    }
    for (report, which) in [(old, "the old"), (new, "the new")] {
        if report.interrupted {
            warnings.push(format!("{which} comparison was interrupted"));
        }
        // More runnable processes than processors: times are the scheduler's too.
        if report.host.load > f64::from(report.host.cpus) {
            warnings.push(format!("the host of {which} comparison was busy"));
        }
    }
    warnings
}

/// By what a way was taken.
fn how(way: Option<&Way>) -> String {
    match way {
        None => "not taken".to_owned(),
        Some(Way { failure: Some(reason), .. }) => format!("failed ({reason})"),
        Some(way) => way.detail.clone(),
    }
}

fn mib(mib: u32) -> String {
    format!("{mib} MiB")
}

/// Memory as the same host has it from boot to boot: kernels differ in what they keep.
fn mebibytes(bytes: u64) -> String {
    format!("about {} MiB", (bytes >> 26) << 6)
}
