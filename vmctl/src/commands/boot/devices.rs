//! The values of `--disk`, `--net`, `--share`, `--vsock`, `--console` and `--memory`.

use std::path::PathBuf;
use std::str::FromStr;

use api::config::{
    CacheType, ConsoleDevice, ConsoleMode, ConsoleSpec, DiskFormat, DriveSpec, IoEngine, NetSpec,
    RateLimiter, ShareSpec, TokenBucket, VsockSpec,
};

use crate::options::{OptionError, parse_list, parse_with_first};
use crate::size;

/// The time that a limit given as a number per second is kept over, in milliseconds.
const SECOND_MS: u64 = 1000;

/// A flag's value and what it was read from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<T> {
    pub(crate) text: String,
    pub(crate) spec: T,
}

pub(crate) type DiskArg = Given<DriveSpec>;
pub(crate) type NetArg = Given<NetSpec>;
pub(crate) type ShareArg = Given<ShareSpec>;
pub(crate) type VsockArg = Given<VsockSpec>;
pub(crate) type ConsoleArg = Given<ConsoleSpec>;
/// Memory, in MiB.
pub(crate) type MemoryArg = Given<u64>;

impl FromStr for MemoryArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { text: text.to_owned(), spec: size::parse_mib(text)? })
    }
}

impl FromStr for DiskArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const KNOWN: &str = "ro, engine, cache, iops, bw, serial, queues, format, id";
        let (path, options) = parse_with_first(text)?;
        if path.is_empty() {
            return Err(OptionError::Missing("the image's path"));
        }
        let mut spec =
            DriveSpec { path_on_host: Some(PathBuf::from(path)), ..DriveSpec::default() };
        let mut limits = RateLimiter::default();
        for option in options {
            match option.key() {
                "ro" => spec.is_read_only = Some(option.flag()?),
                "engine" => {
                    let engines = [("sync", IoEngine::Sync), ("uring", IoEngine::Async)];
                    spec.io_engine = Some(option.word(&engines)?);
                }
                "cache" => spec.cache_type = Some(option.word(&CACHES)?),
                "iops" => limits.ops = per_second(option.rate()?),
                "bw" => limits.bandwidth = per_second(option.byte_rate()?),
                "serial" => spec.serial = Some(option.text()?),
                "queues" => spec.num_queues = Some(option.parse()?),
                "format" => {
                    let formats = [("raw", DiskFormat::Raw), ("qcow2", DiskFormat::Qcow2)];
                    spec.format = Some(option.word(&formats)?);
                }
                "id" => spec.drive_id = option.text()?,
                _ => return Err(option.unknown(KNOWN)),
            }
        }
        spec.rate_limiter = given(limits);
        Ok(Self { text: text.to_owned(), spec })
    }
}

const CACHES: [(&str, CacheType); 3] = [
    ("writeback", CacheType::Writeback),
    ("unsafe", CacheType::Unsafe),
    ("direct", CacheType::Direct),
];

impl FromStr for NetArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const KNOWN: &str = "tap, socket, mac, queues, id, rx-bw, tx-bw, rx-pps, tx-pps";
        let mut spec = NetSpec::default();
        let (mut rx, mut tx) = (RateLimiter::default(), RateLimiter::default());
        for option in parse_list(text)? {
            match option.key() {
                "tap" => spec.host_dev_name = option.text()?,
                "socket" => spec.socket = Some(option.text()?.into()),
                "mac" => spec.guest_mac = Some(option.text()?),
                "queues" => spec.num_queue_pairs = Some(option.parse()?),
                "id" => spec.iface_id = option.text()?,
                "rx-bw" => rx.bandwidth = per_second(option.byte_rate()?),
                "tx-bw" => tx.bandwidth = per_second(option.byte_rate()?),
                "rx-pps" => rx.ops = per_second(option.rate()?),
                "tx-pps" => tx.ops = per_second(option.rate()?),
                _ => return Err(option.unknown(KNOWN)),
            }
        }
        if spec.host_dev_name.is_empty() && spec.socket.is_none() {
            return Err(OptionError::Missing("tap=NAME"));
        }
        spec.rx_rate_limiter = given(rx);
        spec.tx_rate_limiter = given(tx);
        Ok(Self { text: text.to_owned(), spec })
    }
}

impl FromStr for ShareArg {
    type Err = OptionError;

    /// Reads `[NAME=]DIR[:ro]`. What's before a `=` is no name if there's a `/` in it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains('/') => (Some(name.to_owned()), rest),
            _ => (None, text),
        };
        let (path, is_read_only) = match rest.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (rest.strip_suffix(":rw").unwrap_or(rest), false),
        };
        if path.is_empty() {
            return Err(OptionError::Missing("the directory's path"));
        }
        let spec = ShareSpec { name, path: PathBuf::from(path), is_read_only };
        Ok(Self { text: text.to_owned(), spec })
    }
}

impl FromStr for VsockArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut cid, mut path) = (None, None);
        for option in parse_list(text)? {
            match option.key() {
                "cid" => cid = Some(option.parse()?),
                "path" => path = Some(option.text()?),
                _ => return Err(option.unknown("cid, path")),
            }
        }
        let guest_cid = cid.ok_or(OptionError::Missing("cid=N"))?;
        let path = path.ok_or(OptionError::Missing("path=SOCKET"))?;
        let spec = VsockSpec { vsock_id: None, guest_cid, uds_path: PathBuf::from(path) };
        Ok(Self { text: text.to_owned(), spec })
    }
}

impl FromStr for ConsoleArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut mode, mut device) = (None, ConsoleDevice::Serial);
        let mut path = None;
        for option in parse_list(text)? {
            let chosen = match option.key() {
                "stdio" if option.clone().flag()? => ConsoleMode::Stdio,
                "none" if option.clone().flag()? => ConsoleMode::None,
                "file" => {
                    path = Some(PathBuf::from(option.text()?));
                    ConsoleMode::File
                }
                "socket" => {
                    path = Some(PathBuf::from(option.text()?));
                    ConsoleMode::Socket
                }
                "device" => {
                    let devices =
                        [("serial", ConsoleDevice::Serial), ("virtio", ConsoleDevice::Virtio)];
                    device = option.word(&devices)?;
                    continue;
                }
                _ => return Err(option.unknown("stdio, file=PATH, socket=PATH, none, device")),
            };
            if mode.replace(chosen).is_some() {
                return Err(OptionError::Repeated("stdio, file, socket or none".to_owned()));
            }
        }
        let mode = mode.ok_or(OptionError::Missing("stdio, file=PATH, socket=PATH or none"))?;
        Ok(Self { text: text.to_owned(), spec: ConsoleSpec { mode, path, device } })
    }
}

/// A bucket that lets `rate` tokens through each second; it's full at the start, and so allows a
/// burst of one second's worth.
fn per_second(rate: u64) -> Option<TokenBucket> {
    Some(TokenBucket { size: rate, one_time_burst: None, refill_time: SECOND_MS })
}

fn given(limits: RateLimiter) -> Option<RateLimiter> {
    (limits != RateLimiter::default()).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> Result<DriveSpec, String> {
        text.parse::<DiskArg>().map(|arg| arg.spec).map_err(|error| error.to_string())
    }

    #[test]
    fn disk_options_reach_the_spec() {
        let spec = disk(
            "a,,b.img,ro,engine=uring,cache=direct,iops=100,bw=2M,serial=S1,queues=4,format=qcow2",
        )
        .unwrap();
        assert_eq!(spec.path_on_host, Some(PathBuf::from("a,b.img")));
        assert_eq!(spec.is_read_only, Some(true));
        assert_eq!(spec.io_engine, Some(IoEngine::Async));
        assert_eq!(spec.cache_type, Some(CacheType::Direct));
        let limits = spec.rate_limiter.unwrap();
        assert_eq!((limits.ops, limits.bandwidth), (per_second(100), per_second(2 << 20)));
        assert_eq!((spec.serial.as_deref(), spec.num_queues), (Some("S1"), Some(4)));
        assert_eq!(spec.format, Some(DiskFormat::Qcow2));
    }

    #[test]
    fn plain_disk_leaves_every_choice_open() {
        let spec = disk("a.img").unwrap();
        let expected = DriveSpec { path_on_host: Some("a.img".into()), ..DriveSpec::default() };
        assert_eq!(spec, expected);
    }

    #[test]
    fn wrong_disk_options_are_named() {
        for (text, words) in [
            ("", "the image's path is missing"),
            (",ro", "the image's path is missing"),
            ("a,bogus=1", "unknown option \"bogus\"; the options are ro, engine"),
            ("a,", "unknown option \"\""),
            ("a,ro=yes", "\"ro\" takes no value"),
            ("a,engine=aio", "engine=aio: expected sync or uring"),
            ("a,cache=none", "cache=none: expected writeback or unsafe or direct"),
            ("a,iops=-1", "iops=-1: invalid digit"),
            ("a,iops=0", "iops=0: a limit is at least 1"),
            ("a,bw=0M", "bw=0M: a limit is at least 1"),
            ("a,bw=10", "bw=10: a size needs a unit"),
            ("a,queues=65536", "queues=65536: number too large"),
            ("a,format=vmdk", "format=vmdk: expected raw or qcow2"),
            ("a,serial=", "\"serial\" needs a value"),
            ("a,ro,ro", "\"ro\" is given twice"),
        ] {
            let message = disk(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message:?} lacks {words:?}");
        }
    }

    #[test]
    fn net_options_reach_the_spec() {
        let arg: NetArg =
            "tap=tap0,mac=52:54:00:00:00:01,queues=2,rx-bw=1M,tx-pps=5".parse().unwrap();
        assert_eq!(arg.spec.host_dev_name, "tap0");
        assert_eq!(arg.spec.num_queue_pairs, Some(2));
        assert_eq!(arg.spec.rx_rate_limiter.unwrap().bandwidth, per_second(1 << 20));
        assert_eq!(arg.spec.tx_rate_limiter.unwrap().ops, per_second(5));
    }

    #[test]
    fn share_has_a_directory_and_may_have_a_name_and_be_read_only() {
        for (text, name, path, is_read_only) in [
            ("/srv", None, "/srv", false),
            ("/srv:ro", None, "/srv", true),
            ("www=/srv:rw", Some("www"), "/srv", false),
            ("www=srv:ro", Some("www"), "srv", true),
            ("./a=b", None, "./a=b", false),
            ("n=a=b:c", Some("n"), "a=b:c", false),
        ] {
            let spec = text.parse::<ShareArg>().unwrap().spec;
            assert_eq!(spec.name.as_deref(), name, "{text}");
            assert_eq!((spec.path, spec.is_read_only), (path.into(), is_read_only), "{text}");
        }
        for text in ["", ":ro", "name=", "name=:ro"] {
            assert!(text.parse::<ShareArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn devices_without_what_they_need_are_refused() {
        assert!("mac=52:54:00:00:00:01".parse::<NetArg>().is_err());
        assert!("tap0".parse::<NetArg>().is_err());
        assert!("path=a".parse::<VsockArg>().is_err());
        assert!("cid=3".parse::<VsockArg>().is_err());
        assert!("cid=x,path=a".parse::<VsockArg>().is_err());
        assert!("file".parse::<ConsoleArg>().is_err());
        assert!("device=virtio".parse::<ConsoleArg>().is_err());
        assert!("stdio,none".parse::<ConsoleArg>().is_err());
        assert!("pty".parse::<ConsoleArg>().is_err());
    }

    #[test]
    fn console_modes_are_read() {
        let spec = |text: &str| text.parse::<ConsoleArg>().unwrap().spec;
        assert_eq!(spec("stdio"), ConsoleSpec::default());
        assert_eq!(spec("none").mode, ConsoleMode::None);
        assert_eq!(spec("file=log").path, Some("log".into()));
        assert_eq!(spec("stdio,device=virtio").device, ConsoleDevice::Virtio);
    }
}
