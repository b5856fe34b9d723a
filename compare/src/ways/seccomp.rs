//! The system call filter that containers get: the profile of the host's container tools, which have
//! it in the format of Docker's, with conditions on processors and capabilities. An OCI runtime
//! wants it without those. (OCI runtime-spec 1.0.2, `config-linux.md`, Seccomp.)

use std::fs;
use std::path::Path;

use image::Platform;
use serde::Deserialize;
use serde_json::{Value, json};

use super::WayError;

/// Where podman, buildah and CRI-O look for it: the administrator's, then the package's.
pub(crate) const PROFILES: [&str; 2] =
    ["/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json"];

/// The action that has an error number.
const ERRNO: &str = "SCMP_ACT_ERRNO";

/// A profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
    errno_ret: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    arches: Vec<String>,
    caps: Vec<String>,
}

impl Profile {
    /// The host's, if it has one.
    ///
    /// # Errors
    /// It can't be read, or it's no profile.
    pub(crate) fn of_host() -> Result<Option<Self>, WayError> {
        let Some(path) = PROFILES.iter().map(Path::new).find(|path| path.exists()) else {
            return Ok(None);
        };
        let wrong = |why: &dyn std::fmt::Display| {
            WayError::Unavailable(format!("the system call filter {}: {why}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
        serde_json::from_str(&text).map(Some).map_err(|error| wrong(&error))
    }

    /// What the runtime is told, of a container with these capabilities.
    pub(crate) fn for_capabilities(&self, capabilities: &[&str]) -> Value {
        // Conditions have Go's names of processors, runtimes want libseccomp's.
        let (native, go) = (native_architecture(), Platform::host().architecture);
        let has = |capability: &String| capabilities.contains(&capability.as_str());
        let here = |condition: &Condition| condition.arches.contains(&go);
        let applies = |rule: &&Rule| {
            let Rule { includes, excludes, .. } = rule;
            (includes.arches.is_empty() || here(includes))
                && includes.caps.iter().all(has)
                && !here(excludes)
                && !excludes.caps.iter().any(has)
        };
        let rules: Vec<_> = self.syscalls.iter().filter(applies).map(Rule::for_runtime).collect();
        let found = self.arch_map.iter().find(|known| known.architecture == native);
        let others = found.and_then(|known| known.sub_architectures.clone()).unwrap_or_default();
        let architectures: Vec<_> = std::iter::once(native.to_owned()).chain(others).collect();
        let mut filter = json!({
            "defaultAction": self.default_action,
            "architectures": architectures,
            "syscalls": rules,
        });
        if let Some(number) = self.default_errno_ret
            && self.default_action == ERRNO
        {
            filter["defaultErrnoRet"] = json!(number);
        }
        filter
    }
}

impl Rule {
    fn for_runtime(&self) -> Value {
        let mut rule = json!({ "names": self.names, "action": self.action });
        if let Some(args) = &self.args {
            rule["args"] = json!(args);
        }
        if let Some(number) = self.errno_ret
            && self.action == ERRNO
        {
            rule["errnoRet"] = json!(number);
        }
        rule
    }
}

/// This processor, as libseccomp calls it.
const fn native_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null }
        ],
        "syscalls": [
            { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "" },
            { "names": ["personality"], "action": "SCMP_ACT_ALLOW",
              "args": [{ "index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] },
            { "names": ["there"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["s390x"] } },
            { "names": ["here"], "action": "SCMP_ACT_ALLOW",
              "includes": { "arches": ["amd64", "arm64"] } },
            { "names": ["settimeofday"], "action": "SCMP_ACT_ALLOW",
              "includes": { "caps": ["CAP_SYS_TIME"] } },
            { "names": ["settimeofday"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
              "excludes": { "caps": ["CAP_SYS_TIME"] } }
        ]
    }"#;

    fn filter(capabilities: &[&str]) -> Value {
        serde_json::from_str::<Profile>(PROFILE).unwrap().for_capabilities(capabilities)
    }

    /// The rules' first names and actions.
    fn rules(filter: &Value) -> Vec<(&str, &str)> {
        let rules = filter["syscalls"].as_array().unwrap().iter();
        rules
            .map(|rule| (rule["names"][0].as_str().unwrap(), rule["action"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn rules_are_those_of_the_processor_and_the_capabilities() {
        let (allow, common) = ("SCMP_ACT_ALLOW", ["read", "personality", "here"]);
        let of =
            |last| -> Vec<_> { common.map(|name| (name, allow)).into_iter().chain(last).collect() };
        assert_eq!(rules(&filter(&["CAP_CHOWN"])), of([("settimeofday", ERRNO)]));
        assert_eq!(rules(&filter(&["CAP_SYS_TIME"])), of([("settimeofday", allow)]));
    }

    #[test]
    fn runtime_is_told_arguments_errors_and_architectures() {
        let filter = filter(&[]);
        assert_eq!(
            (&filter["defaultAction"], &filter["defaultErrnoRet"]),
            (&json!(ERRNO), &json!(38))
        );
        assert_eq!(filter["architectures"][0], native_architecture());
        assert_eq!(filter["syscalls"][1]["args"][0]["value"], 8);
        assert!(filter["syscalls"][0].get("args").is_none());
        assert_eq!(filter["syscalls"][3]["errnoRet"], 1);
    }

    #[test]
    fn what_is_no_profile_is_an_error() {
        let whole = PROFILE.len() - 1;
        for text in ["", "[]", "{}", "{\"defaultAction\":1,\"syscalls\":[]}", &PROFILE[..whole]] {
            assert!(serde_json::from_str::<Profile>(text).is_err(), "{text}");
        }
    }
}
