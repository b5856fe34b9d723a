//! A process's own limits.

use std::fs;

use agent_proto::ProcessSpec;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fault::{Context, ErrorKind, Result, fault};

/// Docker's mask unless said.
const UMASK: u32 = 0o022;

/// Applies the limits, the mask and the score for when memory runs out.
pub(super) fn apply(process: &ProcessSpec) -> Result<()> {
    for limit in &process.rlimits {
        let resource = resource(&limit.resource)?;
        if limit.soft > limit.hard {
            let message = format!("the soft limit of {} is above the hard one", limit.resource);
            return fault(ErrorKind::Invalid, message);
        }
        let unlimited = |value: u64| Some(value).filter(|value| *value != u64::MAX);
        let value = Rlimit { current: unlimited(limit.soft), maximum: unlimited(limit.hard) };
        let what = || format!("cannot limit {}", limit.resource);
        setrlimit(resource, value).context(ErrorKind::Invalid, what)?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(UMASK) & 0o777));
    if let Some(score) = process.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .context(ErrorKind::Invalid, || format!("cannot set the score {score}"))?;
    }
    Ok(())
}

fn resource(name: &str) -> Result<Resource> {
    let lower = name.to_ascii_lowercase();
    Ok(match lower.strip_prefix("rlimit_").unwrap_or(&lower) {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return fault(ErrorKind::Invalid, format!("unknown limit {name:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_as_dockers() {
        assert_eq!(resource("nofile").unwrap(), Resource::Nofile);
        assert_eq!(resource("RLIMIT_CORE").unwrap(), Resource::Core);
        assert!(resource("patience").is_err());
    }
}
