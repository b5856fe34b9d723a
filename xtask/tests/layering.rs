//! Holds the arrows of `docs/architecture.md`: which crate of this workspace may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate may use. A crate that isn't listed may not exist.
const MAY_USE: &[(&str, &[&str])] = &[
    ("agent-proto", &[]),
    ("agent", &["agent-proto"]),
    ("api", &[]),
    ("erofs", &[]),
    ("image", &["erofs"]),
    ("metering", &[]),
    ("network", &["sys"]),
    ("runtime", &["agent-proto", "api", "image", "network"]),
    (
        "compare",
        &[
            "agent-proto",
            "api",
            "compare-probe",
            "devices",
            "image",
            "metering",
            "network",
            "runtime",
        ],
    ),
    ("compare-probe", &[]),
    ("sys", &[]),
    ("arch", &[]),
    ("arch-x86_64", &["arch"]),
    ("devices", &["sys"]),
    ("snapshot", &["sys"]),
    ("vmm", &["api", "sys", "arch", "arch-x86_64", "devices", "snapshot"]),
    ("vmctl", &["api", "compare", "image", "network", "runtime", "snapshot"]),
    ("xtask", ANY),
    ("integration-tests", ANY),
    ("benches", ANY),
    ("guest-answer", &[]),
];

const ANY: &[&str] = &[
    "agent-proto",
    "api",
    "compare",
    "compare-probe",
    "erofs",
    "image",
    "metering",
    "network",
    "runtime",
    "sys",
    "arch",
    "arch-x86_64",
    "devices",
    "snapshot",
    "vmm",
    "vmctl",
    "integration-tests",
];

/// What must stay out of the guest-facing process, directly or not.
const NOT_IN_VMM: &[&str] =
    &["async-std", "smol", "rustls", "openssl", "native-tls", "h2", "reqwest"];

/// What may be in the guest-facing process for the API's thread only: who may use each directly,
/// besides each other.
const API_ONLY: &[(&str, &[&str])] =
    &[("tokio", &["api"]), ("hyper", &["api"]), ("hyper-util", &["api"])];

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

/// Runs `cargo tree` on what is linked, and returns its lines.
fn tree(arguments: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-e", "normal"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn guest_facing_process_has_no_tls_and_one_async_runtime() {
    let tree = tree(&["-p", "vmm", "--prefix", "none"]);
    let names: BTreeSet<_> = tree.iter().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("kvm-ioctls"), "the tree is that of another crate: {tree:#?}");
    let found: Vec<_> = NOT_IN_VMM.iter().filter(|name| names.contains(*name)).collect();
    assert!(found.is_empty(), "the vmm binary links {found:?}");
}

#[test]
fn async_runtime_is_in_the_guest_facing_process_for_the_api_only() {
    let runtime: BTreeSet<_> = API_ONLY.iter().map(|(name, _)| *name).collect();
    // Each line begins with its depth, and the lines under a crate are what it uses.
    let tree = tree(&["-p", "vmm", "--prefix", "depth", "--no-dedupe"]);
    let mut users: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in &tree {
        let name_at = line.find(|c: char| !c.is_ascii_digit()).expect("a name");
        let depth: usize = line[..name_at].parse().expect("a depth");
        let name = line[name_at..].split(' ').next().expect("a name");
        users.truncate(depth);
        if let Some((name, allowed)) = API_ONLY.iter().find(|(used, _)| *used == name) {
            let user = users.last().map_or("nothing", String::as_str);
            assert!(
                allowed.contains(&user) || runtime.contains(user),
                "{user} uses {name}: it may be used on the API's own thread only"
            );
            seen.insert(*name);
        }
        users.push(name.to_owned());
    }
    assert_eq!(seen, runtime, "the table lists crates that are not used");
}
