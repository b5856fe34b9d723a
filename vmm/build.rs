//! Compiles the system call filters of `resources/seccomp` to BPF: a VM's start then costs no
//! parsing, and a mistake in a policy is one of the build.
//!
//! A thread inherits the filters of the thread that starts it and adds its own: a call must pass all
//! of them. A vCPU starts workers (those of the devices that its guest's driver activates), and
//! the main thread everybody, so the one's policy holds the other's.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use seccompiler::{BpfMap, BpfProgram, TargetArch, compile_from_json};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const POLICIES: &str = "../resources/seccomp";
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// The lists of rules that each sort of thread's policy is made of. The vCPUs' comes first:
/// `KVM_RUN`, whose arguments are looked at each time, is then the first `ioctl` that is compared.
const ROLES: [(&str, &[&str]); 6] = [
    ("API", &["every", "api"]),
    ("WORKER", &["every", "worker"]),
    ("FILES", &["every", "files"]),
    ("SNAPSHOT", &["every", "worker", "snapshot"]),
    ("VCPU", &["vcpu", "every", "worker"]),
    ("MAIN", &["vcpu", "every", "worker", "snapshot", "api", "files", "main"]),
];

/// Answers `clone3`, whose flags no filter can see, with ENOSYS: glibc then uses `clone`. In a
/// filter of its own, because the policies' has one answer to all that it forbids.
const NO_CLONE3: &str = "NO_CLONE3";

const ENOSYS: u32 = 38;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={POLICIES}");
    if env::var("PROFILE")? == "release" {
        // Cargo forgets the profile's `strip` where a package has an `opt-level` of its own.
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    let target = env::var("CARGO_CFG_TARGET_ARCH")?;
    // All of them on every host: whoever breaks one learns of it at once.
    for architecture in ARCHITECTURES {
        let filters = compile(architecture)
            .map_err(|error| format!("{POLICIES}/{architecture}.json: {error}"))?;
        if architecture == target {
            let path = Path::new(&env::var("OUT_DIR")?).join("seccomp_filters.rs");
            fs::write(path, render(&filters)?)?;
        }
    }
    Ok(())
}

fn compile(architecture: &str) -> Result<BpfMap> {
    let text = fs::read(format!("{POLICIES}/{architecture}.json"))?;
    let lists: Map<String, Value> = serde_json::from_slice(&text)?;
    let mut filters = Map::new();
    for (role, names) in ROLES {
        let mut rules = Vec::new();
        for name in names {
            let list = lists.get(*name).and_then(Value::as_array);
            rules.extend_from_slice(list.ok_or_else(|| format!("there is no list {name:?}"))?);
        }
        check(&rules)?;
        let policy = json!({"mismatch_action": "trap", "match_action": "allow", "filter": rules});
        filters.insert(role.to_owned(), policy);
    }
    let no_clone3 = json!({
        "mismatch_action": "allow",
        "match_action": {"errno": ENOSYS},
        "filter": [{"syscall": "clone3"}],
    });
    filters.insert(NO_CLONE3.to_owned(), no_clone3);
    let json = serde_json::to_vec(&Value::Object(filters))?;
    Ok(compile_from_json(json.as_slice(), TargetArch::try_from(architecture)?)?)
}

/// Refuses what the compiler would take for something else: a call that one rule allows with any
/// arguments and another with some, of which it would forget the former.
fn check(rules: &[Value]) -> Result<()> {
    for rule in rules {
        let name = rule.get("syscall");
        let narrowed = rule.get("args").is_some();
        let same = |other: &&Value| other.get("syscall") == name;
        let alike = rules.iter().filter(same).all(|it| it.get("args").is_some() == narrowed);
        if !alike {
            return Err(format!("{name:?} is allowed with any arguments and with some").into());
        }
        if rule.get("comment").is_none() {
            return Err(format!("nothing says what {name:?} is for").into());
        }
    }
    Ok(())
}

/// Writes the filters as constants.
fn render(filters: &BpfMap) -> Result<String> {
    let mut source = String::new();
    let names = ROLES.map(|(role, _)| role).into_iter().chain([NO_CLONE3]);
    for name in names {
        let filter: &BpfProgram = filters.get(name).ok_or("a filter got lost")?;
        writeln!(source, "const {name}: &[sock_filter] = &[")?;
        for it in filter {
            let (code, jt, jf, k) = (it.code, it.jt, it.jf, it.k);
            writeln!(source, "sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
        }
        writeln!(source, "];")?;
    }
    Ok(source)
}
