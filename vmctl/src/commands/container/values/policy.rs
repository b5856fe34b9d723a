//! Restart policies, capabilities, security options, signals.

use runtime::RestartPolicy;
use rustix::process::Signal;

use super::Problem;

/// Reads a restart policy.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, Problem> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    let policy = match name {
        "no" | "" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            let count = count.map_or(Ok(0), str::parse);
            return count.map(|max_retries| RestartPolicy::OnFailure { max_retries }).map_err(
                |_| {
                    "invalid restart policy format: maximum retry count must be a positive integer"
                        .into()
                },
            );
        }
        _ => {
            return Err(format!(
                "unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ));
        }
    };
    match count {
        None => Ok(policy),
        Some(_) => Err("maximum retry count can only be used with 'on-failure'".to_owned()),
    }
}

/// Linux's capabilities, in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Reads a capability's name, with or without `CAP_`, or `ALL`; returns it as `CAP_CHOWN`, or
/// `ALL`.
pub(crate) fn capability(text: &str) -> Result<String, Problem> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match name {
        "ALL" => Ok("ALL".to_owned()),
        name if CAPABILITIES.contains(&name) => Ok(format!("CAP_{name}")),
        _ => Err(format!("unknown capability {text:?}")),
    }
}

/// Reads a security option; returns whether new privileges are forbidden.
pub(crate) fn security_option(text: &str) -> Result<bool, Problem> {
    match text.split_once(['=', ':']).unwrap_or((text, "true")) {
        ("no-new-privileges", "true") => Ok(true),
        ("no-new-privileges", "false") => Ok(false),
        _ => Err(format!(
            "invalid security option {text:?}: there's no-new-privileges[=true|false]; a kernel of \
             its own confines each container"
        )),
    }
}

/// The signals that have names, with those names.
const SIGNALS: [(&str, Signal); 32] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("IOT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("STKFLT", Signal::STKFLT),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];

/// The first and the last real-time signal, as Linux and libc number them.
const REAL_TIME: (i32, i32) = (34, 64);

/// Reads a signal's name, with or without `SIG`, or its number; returns the number.
pub(crate) fn signal(text: &str) -> Result<i32, Problem> {
    let invalid = || format!("invalid signal: {text}");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, signal)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(signal.as_raw());
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(REAL_TIME.0),
        (_, Some("")) => Some(REAL_TIME.1),
        (Some(more), _) => more
            .strip_prefix('+')
            .and_then(|it| it.parse::<u8>().ok())
            .map(|it| REAL_TIME.0 + i32::from(it)),
        (_, Some(less)) => less
            .strip_prefix('-')
            .and_then(|it| it.parse::<u8>().ok())
            .map(|it| REAL_TIME.1 - i32::from(it)),
        _ => None,
    };
    number.filter(|number| (REAL_TIME.0..=REAL_TIME.1).contains(number)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_dockers() {
        for (text, policy) in [
            ("no", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure { max_retries: 0 }),
            ("on-failure:5", RestartPolicy::OnFailure { max_retries: 5 }),
        ] {
            assert_eq!(restart(text), Ok(policy));
        }
        for (text, problem) in [
            ("never", "unknown policy 'never'; use one of"),
            ("always:3", "maximum retry count can only be used with 'on-failure'"),
            ("on-failure:", "invalid restart policy format"),
            ("on-failure:-1", "invalid restart policy format"),
            ("on-failure:x", "invalid restart policy format"),
        ] {
            assert!(restart(text).unwrap_err().starts_with(problem), "{text}");
        }
    }

    #[test]
    fn capabilities_are_known_in_any_spelling() {
        for text in ["net_admin", "CAP_NET_ADMIN", "cap_net_admin"] {
            assert_eq!(capability(text).as_deref(), Ok("CAP_NET_ADMIN"));
        }
        assert_eq!(capability("all").as_deref(), Ok("ALL"));
        for text in ["", "CAP_", "NET", "CAP_CAP_CHOWN"] {
            assert_eq!(capability(text), Err(format!("unknown capability {text:?}")));
        }
    }

    #[test]
    fn only_privileges_can_be_chosen_as_security_options() {
        for (text, forbids) in [
            ("no-new-privileges", true),
            ("no-new-privileges:true", true),
            ("no-new-privileges=false", false),
        ] {
            assert_eq!(security_option(text), Ok(forbids));
        }
        for text in ["seccomp=unconfined", "no-new-privileges=maybe", "", "label=disable"] {
            assert!(security_option(text).unwrap_err().starts_with("invalid security option"));
        }
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("64", 64),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("RTMIN", 34),
            ("SIGWINCH", 28),
        ] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIG", "TERMS", "RTMIN+31", "RTMAX-99", "RTMIN-1"] {
            assert_eq!(signal(text), Err(format!("invalid signal: {text}")));
        }
    }
}
