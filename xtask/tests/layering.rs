//! Holds the arrows of `docs/architecture.md`: which crate of this workspace may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate may use. A crate that isn't listed may not exist.
const MAY_USE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("sys", &[]),
    ("arch", &[]),
    ("arch-x86_64", &["arch"]),
    ("devices", &["sys"]),
    ("snapshot", &["sys"]),
    ("vmm", &["api", "sys", "arch", "arch-x86_64", "devices", "snapshot"]),
    ("vmctl", &["api", "snapshot"]),
    ("xtask", ANY),
    ("integration-tests", ANY),
    ("benches", ANY),
];

const ANY: &[&str] =
    &["api", "sys", "arch", "arch-x86_64", "devices", "snapshot", "vmm", "vmctl", "integration-tests"];

/// What must stay out of the guest-facing process, directly or not.
const NOT_IN_VMM: &[&str] = &["tokio", "async-std", "rustls", "openssl", "hyper", "reqwest"];

fn metadata(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn list<'a>(value: &'a serde_json::Value, key: &str) -> &'a [serde_json::Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let metadata = metadata(&["--no-deps"]);
    let packages = list(&metadata, "packages");
    let ours: BTreeSet<_> = packages.iter().map(|package| text(package, "name")).collect();
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let used = list(package, "dependencies").iter().map(|dependency| text(dependency, "name"));
        let forbidden = used.filter(|used| ours.contains(used) && !may_use.contains(used));
        wrong.extend(
            forbidden.filter(|used| *used != name).map(|used| format!("{name} uses {used}")),
        );
    }
    assert!(wrong.is_empty(), "edges that docs/architecture.md doesn't allow: {wrong:#?}");
    let listed: BTreeSet<_> = allowed.keys().copied().collect();
    assert_eq!(listed, ours, "the table lists crates that are gone");
}

#[test]
fn guest_facing_process_has_no_async_runtime_and_no_tls() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "vmm", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("kvm-ioctls"), "the tree is that of another crate: {tree}");
    let found: Vec<_> = NOT_IN_VMM.iter().filter(|name| names.contains(*name)).collect();
    assert!(found.is_empty(), "the vmm binary links {found:?}");
}
