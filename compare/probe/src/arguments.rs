//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use compare_probe::measure::{DiskJob, SyscallKind};
use lexopt::prelude::*;

/// All that can be asked for.
const USAGE: &str = "usage: compare-probe COMMAND
  idle | first-byte | facts
  proc-sys --path kernel/domainname --value TEXT
  try hostname --value NAME | clock | module | memory | mount | dmesg | raw-disk
  try fork --limit N
  try panic --yes-in-a-vm --host-boot-id ID
  cpu --iterations N
  syscall --count N [--kind getppid|openclose|pipe]
  memory --bytes N --rounds N
  disk --dir DIR --bytes N [--block 4096] --operations N [--direct] [--no-fio]
  net-server --port PORT
  net-client --address ADDRESS:PORT --mode latency --count N
  net-client --address ADDRESS:PORT --mode up|down --bytes N
  web-server --port PORT
  web-client --address ADDRESS:PORT --requests N --connections N [--path /]
  vsock-server --port PORT
  connect --address ADDRESS:PORT --timeout-ms N [--path /]";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Idle,
    FirstByte,
    /// A child of `try fork`.
    Sleep,
    Facts,
    ProcSys {
        path: String,
        value: String,
    },
    Try(Try),
    Cpu {
        iterations: u64,
    },
    Syscall {
        kind: SyscallKind,
        count: u64,
    },
    Memory {
        bytes: u64,
        rounds: u64,
    },
    Disk(DiskJob),
    NetServer {
        port: u16,
    },
    WebServer {
        port: u16,
    },
    VsockServer {
        port: u32,
    },
    RoundTrips {
        address: SocketAddr,
        count: u64,
    },
    Send {
        address: SocketAddr,
        bytes: u64,
    },
    Receive {
        address: SocketAddr,
        bytes: u64,
    },
    WebClient {
        address: SocketAddr,
        path: String,
        requests: u64,
        connections: u64,
    },
    Connect {
        address: SocketAddr,
        path: String,
        timeout_ms: u64,
    },
}

/// What to try.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Try {
    Hostname(String),
    Clock,
    Module,
    Memory,
    Fork { limit: u64 },
    Panic { host_boot_id: String },
    Mount,
    Dmesg,
    RawDisk,
}

/// Why a command line makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("{0}\n{USAGE}")]
    Arguments(#[from] lexopt::Error),
    #[error("there is no command {0:?}\n{USAGE}")]
    Unknown(String),
    #[error("no command\n{USAGE}")]
    Missing,
    #[error("{command} needs --{flag}\n{USAGE}")]
    MissingFlag { command: String, flag: &'static str },
    #[error("--{flag} {value:?}: {reason}")]
    Value { flag: &'static str, value: String, reason: String },
    #[error("{command} has no --{flag}\n{USAGE}")]
    UnknownFlag { command: String, flag: String },
}

/// Flags that have no value.
const SWITCHES: [&str; 3] = ["direct", "no-fio", "yes-in-a-vm"];

/// A command's flags, of which each is taken once; one that's left is unknown.
struct Flags {
    command: String,
    values: BTreeMap<String, Option<String>>,
}

/// Reads the command line, the program's name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut words = Vec::new();
    let mut values = BTreeMap::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long(flag) => {
                let flag = flag.to_owned();
                let value = if SWITCHES.contains(&flag.as_str()) {
                    None
                } else {
                    Some(parser.value()?.string()?)
                };
                values.insert(flag, value);
            }
            Value(word) => words.push(word.string()?),
            Short(_) => return Err(argument.unexpected().into()),
        }
    }
    let command = words.join(" ");
    let mut flags = Flags { command, values };
    let parsed = command_of(&mut flags)?;
    match flags.values.into_keys().next() {
        Some(flag) => Err(UsageError::UnknownFlag { command: flags.command, flag }),
        None => Ok(parsed),
    }
}

fn command_of(flags: &mut Flags) -> Result<Command, UsageError> {
    Ok(match flags.command.clone().as_str() {
        "" => return Err(UsageError::Missing),
        "idle" => Command::Idle,
        "first-byte" => Command::FirstByte,
        "sleep" => Command::Sleep,
        "facts" => Command::Facts,
        "proc-sys" => {
            Command::ProcSys { path: flags.required("path")?, value: flags.required("value")? }
        }
        "cpu" => Command::Cpu { iterations: flags.required("iterations")? },
        "syscall" => Command::Syscall {
            kind: flags.optional("kind")?.unwrap_or(SyscallKind::GetPpid),
            count: flags.required("count")?,
        },
        "memory" => {
            Command::Memory { bytes: flags.required("bytes")?, rounds: flags.required("rounds")? }
        }
        "disk" => Command::Disk(DiskJob {
            directory: flags.required::<PathBuf>("dir")?,
            bytes: flags.required("bytes")?,
            block_bytes: flags.optional("block")?.unwrap_or(4096),
            operations: flags.required("operations")?,
            direct: flags.switch("direct"),
            fio: !flags.switch("no-fio"),
        }),
        "net-server" => Command::NetServer { port: flags.required("port")? },
        "web-server" => Command::WebServer { port: flags.required("port")? },
        "vsock-server" => Command::VsockServer { port: flags.required("port")? },
        "net-client" => net_client(flags)?,
        "web-client" => Command::WebClient {
            address: flags.required("address")?,
            path: flags.optional("path")?.unwrap_or_else(|| "/".to_owned()),
            requests: flags.required("requests")?,
            connections: flags.required("connections")?,
        },
        "connect" => Command::Connect {
            address: flags.required("address")?,
            path: flags.optional("path")?.unwrap_or_else(|| "/".to_owned()),
            timeout_ms: flags.required("timeout-ms")?,
        },
        command => match command.strip_prefix("try ") {
            Some(what) => Command::Try(try_of(what, flags)?),
            None => return Err(UsageError::Unknown(command.to_owned())),
        },
    })
}

fn try_of(what: &str, flags: &mut Flags) -> Result<Try, UsageError> {
    Ok(match what {
        "hostname" => Try::Hostname(flags.required("value")?),
        "clock" => Try::Clock,
        "module" => Try::Module,
        "memory" => Try::Memory,
        "fork" => Try::Fork { limit: flags.required("limit")? },
        "panic" => {
            if !flags.switch("yes-in-a-vm") {
                return Err(flags.missing("yes-in-a-vm"));
            }
            Try::Panic { host_boot_id: flags.required("host-boot-id")? }
        }
        "mount" => Try::Mount,
        "dmesg" => Try::Dmesg,
        "raw-disk" => Try::RawDisk,
        _ => return Err(UsageError::Unknown(format!("try {what}"))),
    })
}

fn net_client(flags: &mut Flags) -> Result<Command, UsageError> {
    let address = flags.required("address")?;
    let mode: String = flags.required("mode")?;
    Ok(match mode.as_str() {
        "latency" => Command::RoundTrips { address, count: flags.required("count")? },
        "up" => Command::Send { address, bytes: flags.required("bytes")? },
        "down" => Command::Receive { address, bytes: flags.required("bytes")? },
        _ => {
            let reason = "it is not latency, up or down".to_owned();
            return Err(UsageError::Value { flag: "mode", value: mode, reason });
        }
    })
}

impl Flags {
    fn switch(&mut self, flag: &str) -> bool {
        self.values.remove(flag).is_some()
    }

    fn optional<T: FromStr>(&mut self, flag: &'static str) -> Result<Option<T>, UsageError>
    where
        T::Err: std::fmt::Display,
    {
        let Some(value) = self.values.remove(flag).flatten() else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(UsageError::Value { flag, value, reason: format!("{error}") }),
        }
    }

    fn required<T: FromStr>(&mut self, flag: &'static str) -> Result<T, UsageError>
    where
        T::Err: std::fmt::Display,
    {
        self.optional(flag)?.ok_or_else(|| self.missing(flag))
    }

    fn missing(&self, flag: &'static str) -> UsageError {
        UsageError::MissingFlag { command: self.command.clone(), flag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, UsageError> {
        let words = std::iter::once("compare-probe").chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    #[test]
    fn flags_come_in_any_order_and_either_form() {
        let address = "127.0.0.1:80".parse().unwrap();
        let expected =
            Command::WebClient { address, path: "/".to_owned(), requests: 5, connections: 2 };
        let line = "web-client --connections=2 --requests 5 --address 127.0.0.1:80";
        assert_eq!(parse_line(line).unwrap(), expected);
        let expected = Command::Syscall { kind: SyscallKind::Pipe, count: 3 };
        assert_eq!(parse_line("syscall --kind pipe --count 3").unwrap(), expected);
        assert_eq!(parse_line("try fork --limit 3").unwrap(), Command::Try(Try::Fork { limit: 3 }));
    }

    #[test]
    fn panic_wants_to_be_told_twice() {
        let id = "--host-boot-id x";
        assert!(parse_line("try panic").is_err());
        assert!(parse_line("try panic --yes-in-a-vm").is_err());
        assert!(parse_line(&format!("try panic {id}")).is_err());
        let expected = Command::Try(Try::Panic { host_boot_id: "x".to_owned() });
        assert_eq!(parse_line(&format!("try panic --yes-in-a-vm {id}")).unwrap(), expected);
    }

    #[test]
    fn lines_that_make_no_sense_are_errors() {
        for line in [
            "",
            "nothing",
            "try",
            "try nothing",
            "idle now",
            "idle --loud 1",
            "facts -v",
            "cpu",
            "cpu --iterations",
            "cpu --iterations -1",
            "cpu --iterations many",
            "cpu --iterations 99999999999999999999",
            "cpu --iterations 1 --rounds 2",
            "syscall --kind exit --count 1",
            "disk --dir / --bytes 1 --operations 1 --direct=yes",
            "net-server --port 65536",
            "vsock-server --port 4294967296",
            "net-client --address localhost:1 --mode up --bytes 1",
            "net-client --address 127.0.0.1:1 --mode side --bytes 1",
            "net-client --address 127.0.0.1:1 --mode latency --bytes 1",
            "connect --address 127.0.0.1 --timeout-ms 1",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
