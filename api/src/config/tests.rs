//! The format, its defaults, and every refusal.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::event::ErrorKind;

mod backing;
mod concat;
mod filesystems;
mod services;

fn base() -> Value {
    json!({
        "boot-source": { "kernel_image_path": "vmlinux" },
        "drives": [
            { "drive_id": "data", "path_on_host": "data.img", "is_root_device": false },
            { "drive_id": "root", "path_on_host": "root.img", "is_root_device": true }
        ],
        "network-interfaces": [
            { "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "52:54:00:12:34:56" },
            { "iface_id": "eth1", "host_dev_name": "tap1" }
        ],
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 256 },
        "vsock": { "guest_cid": 3, "uds_path": "v.sock" },
        "balloon": { "amount_mib": 0, "deflate_on_oom": true }
    })
}

fn check(value: &Value) -> Result<VmConfig, ConfigError> {
    VmSpec::from_json(value.to_string().as_bytes())?.validate()
}

/// `base` with the value at a JSON pointer replaced or added.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = base();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Object(object) => drop(object.insert(key.to_owned(), value)),
        Value::Array(array) => array[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer} has no parent"),
    }
    config
}

fn refusal(pointer: &str, value: Value) -> (ErrorKind, String) {
    let error = check(&with(pointer, value)).unwrap_err();
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        message = format!("{message}: {source}");
    }
    (error.kind(), message)
}

#[test]
fn firecracker_file_with_all_of_its_keys_is_accepted() {
    // What Firecracker's own `GET /vm/config` returns, nulls and all.
    let config = json!({
        "balloon": null,
        "drives": [{
            "drive_id": "rootfs", "partuuid": null, "is_root_device": true,
            "cache_type": "Unsafe", "is_read_only": false, "path_on_host": "ubuntu.ext4",
            "rate_limiter": {
                "bandwidth": { "size": 1000, "one_time_burst": 10, "refill_time": 100 },
                "ops": null
            },
            "io_engine": "Sync", "socket": null
        }],
        "boot-source": {
            "kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 reboot=k panic=1",
            "initrd_path": null
        },
        "cpu-config": null, "logger": null, "metrics": null, "mmds-config": null,
        "machine-config": {
            "vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false,
            "huge_pages": "None"
        },
        "network-interfaces": [{
            "iface_id": "net1", "host_dev_name": "tap0", "guest_mac": "06:00:AC:10:00:02",
            "rx_rate_limiter": null, "tx_rate_limiter": null
        }],
        "vsock": { "vsock_id": "vsock0", "guest_cid": 3, "uds_path": "./v.sock" },
        "entropy": null, "pmem": [], "memory-hotplug": null
    });
    let config = check(&config).unwrap();
    assert_eq!(config.boot.cmdline, "console=ttyS0 reboot=k panic=1 root=/dev/vda rw");
    assert_eq!(config.drives[0].cache, CacheType::Unsafe);
    assert_eq!(config.drives[0].io_engine, Some(IoEngine::Sync));
    assert_eq!(config.nets[0].mac.unwrap().octets(), [6, 0, 0xac, 0x10, 0, 2]);
    assert_eq!(config.machine.mem_bytes(), 1 << 30);
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = check(&json!({ "boot-source": { "kernel_image_path": "k" } })).unwrap();
    assert_eq!((config.machine.vcpus, config.machine.mem_mib), (1, DEFAULT_MEM_MIB));
    assert_eq!(config.machine.transport, Transport::Pci);
    assert_eq!(config.console.output, ConsoleOutput::Stdio);
    assert_eq!(config.boot.cmdline, "console=ttyS0 reboot=k panic=-1");
}

#[test]
fn serialized_config_validates_to_itself() {
    let config = check(&base()).unwrap();
    let text = serde_json::to_vec(&config).unwrap();
    assert_eq!(VmSpec::from_json(&text).unwrap().validate().unwrap(), config);
}

#[test]
fn root_device_comes_first_and_is_named_on_the_command_line() {
    let config = check(&base()).unwrap();
    assert_eq!(config.drives[0].id, "root");
    assert_eq!(config.boot.cmdline, "console=ttyS0 reboot=k panic=-1 root=/dev/vda rw");
}

#[test]
fn command_line_gets_a_root_only_where_it_has_none() {
    let cases = [
        ("root=/dev/vda1 quiet", false, None, "root=/dev/vda1 quiet"),
        ("quiet", true, None, "quiet root=/dev/vda ro"),
        ("", false, Some("ab-01"), "root=PARTUUID=ab-01 rw"),
        ("rdroot=1", false, None, "rdroot=1 root=/dev/vda rw"),
    ];
    for (args, read_only, partuuid, expected) in cases {
        let mut config = with("/boot-source/boot_args", args.into());
        config["drives"][1]["is_read_only"] = read_only.into();
        config["drives"][1]["partuuid"] = json!(partuuid);
        assert_eq!(check(&config).unwrap().boot.cmdline, expected);
    }
}

#[test]
fn default_command_line_names_the_console_that_is_there() {
    let cases = [
        (json!({ "mode": "none" }), "reboot=k panic=-1"),
        (json!({ "device": "virtio" }), "console=hvc0 reboot=k panic=-1"),
        (json!({ "mode": "file", "path": "log" }), "console=ttyS0 reboot=k panic=-1"),
    ];
    for (console, expected) in cases {
        let mut config = with("/console", console);
        config["drives"] = json!([]);
        assert_eq!(check(&config).unwrap().boot.cmdline, expected);
    }
}

#[test]
fn serial_number_defaults_to_the_start_of_the_drive_id() {
    let config = with("/drives/1/drive_id", "abcdefghijklmnopqrstuvwxyz".into());
    assert_eq!(check(&config).unwrap().drives[0].serial, "abcdefghijklmnopqrst");
}

#[test]
fn one_image_may_be_attached_twice_if_both_only_read() {
    let mut config = with("/drives/0/path_on_host", "root.img".into());
    config["drives"][0]["is_read_only"] = true.into();
    assert!(matches!(check(&config), Err(ConfigError::Duplicate { .. })));
    config["drives"][1]["is_read_only"] = true.into();
    check(&config).unwrap();
}

#[test]
fn limits_themselves_are_accepted() {
    for (pointer, value) in [
        ("/machine-config/vcpu_count", json!(32)),
        ("/machine-config/mem_size_mib", json!(MAX_MEM_MIB)),
        ("/drives/0/drive_id", json!("x".repeat(64))),
        ("/drives/0/serial", json!("x".repeat(20))),
        ("/drives/0/num_queues", json!(16)),
        ("/network-interfaces/0/host_dev_name", json!("x".repeat(15))),
        ("/vsock/guest_cid", json!(0xffff_fffe_u32)),
        ("/vsock/uds_path", json!("x".repeat(107))),
        ("/balloon/amount_mib", json!(255)),
        ("/boot-source/boot_args", json!(format!("root=x{}", "y".repeat(2041)))),
    ] {
        check(&with(pointer, value)).unwrap_or_else(|error| panic!("{pointer}: {error}"));
    }
}

#[test]
fn out_of_range_numbers_are_refused_with_field_and_value() {
    for (pointer, value, expected) in [
        (
            "/machine-config/vcpu_count",
            json!(0),
            "machine-config.vcpu_count: 0 is not from 1 to 32",
        ),
        (
            "/machine-config/vcpu_count",
            json!(33),
            "machine-config.vcpu_count: 33 is not from 1 to 32",
        ),
        (
            "/machine-config/mem_size_mib",
            json!(0),
            "machine-config.mem_size_mib: 0 is not from 1 to",
        ),
        (
            "/machine-config/mem_size_mib",
            json!(u64::MAX),
            "machine-config.mem_size_mib: 18446744073709551615",
        ),
        (
            "/machine-config",
            json!({ "mem_size_mib": 129, "huge_pages": "2M" }),
            "129 is not an even number of MiB",
        ),
        ("/drives/0/num_queues", json!(0), "drives[0].num_queues: 0 is not from 1 to 16"),
        ("/drives/1/num_queues", json!(17), "drives[1].num_queues: 17 is not from 1 to 16"),
        (
            "/network-interfaces/1/num_queue_pairs",
            json!(17),
            "network-interfaces[1].num_queue_pairs: 17",
        ),
        ("/vsock/guest_cid", json!(2), "vsock.guest_cid: 2 is not from 3 to 4294967294"),
        ("/vsock/guest_cid", json!(0xffff_ffff_u32), "vsock.guest_cid: 4294967295"),
        (
            "/balloon/amount_mib",
            json!(256),
            "balloon.amount_mib: 256 is not less than the VM's memory of 256",
        ),
    ] {
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigInvalid, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn malformed_values_are_refused_with_field_and_value() {
    for (pointer, value, expected) in [
        ("/boot-source", json!({}), "boot-source.kernel_image_path: is required"),
        ("/boot-source/kernel_image_path", json!(""), "boot-source.kernel_image_path: is required"),
        ("/boot-source/kernel_image_path", json!("a\0b"), "has a NUL in it"),
        ("/boot-source/boot_args", json!("a\0b"), "boot-source.boot_args: \"a\\0b"),
        ("/boot-source/boot_args", json!("a\nb"), "printable ASCII"),
        ("/boot-source/boot_args", json!("root=ü"), "printable ASCII"),
        (
            "/boot-source/boot_args",
            json!(format!("root={}", "y".repeat(2043))),
            "2048 bytes; at most 2047",
        ),
        ("/drives/0/drive_id", json!(""), "drives[0].drive_id: is required"),
        ("/drives/0/drive_id", json!("a b"), "drives[0].drive_id: \"a b\" is no identifier"),
        ("/drives/0/drive_id", json!("x".repeat(65)), "is no identifier"),
        (
            "/drives/0/drive_id",
            json!("root"),
            "drives[1].drive_id: \"root\" is already used by drives[0].drive_id",
        ),
        (
            "/drives/0/is_root_device",
            json!(true),
            "drives[1].is_root_device: \"true\" is already used by",
        ),
        ("/drives/0/path_on_host", json!(null), "drives[0].path_on_host: is required"),
        (
            "/drives/1/path_on_host",
            json!("data.img"),
            "drives[1].path_on_host: \"data.img\" is already used",
        ),
        (
            "/drives/0/backing",
            json!([{ "path_on_host": "b", "format": "raw" }]),
            "below a raw image",
        ),
        ("/drives/0/serial", json!(""), "is 0 bytes long; it must be 1 to 20"),
        ("/drives/0/serial", json!("x".repeat(21)), "is 21 bytes long"),
        ("/drives/0/serial", json!("ü"), "printable ASCII"),
        ("/drives/1/partuuid", json!("a b"), "drives[1].partuuid: \"a b\" is no partition's UUID"),
        (
            "/network-interfaces/0/host_dev_name",
            json!(""),
            "network-interfaces[0].host_dev_name: is required",
        ),
        ("/network-interfaces/0/host_dev_name", json!("x".repeat(16)), "is 16 bytes long"),
        ("/network-interfaces/0/host_dev_name", json!("a/b"), "can't be an interface's name"),
        ("/network-interfaces/0/host_dev_name", json!("tap%d"), "can't be an interface's name"),
        (
            "/network-interfaces/0/socket",
            json!("net.sock"),
            "network-interfaces[0].socket: \"net.sock\" stands beside host_dev_name",
        ),
        (
            "/network-interfaces/1/host_dev_name",
            json!("tap0"),
            "network-interfaces[1].host_dev_name: \"tap0\" is already",
        ),
        (
            "/network-interfaces/1/iface_id",
            json!("eth0"),
            "network-interfaces[1].iface_id: \"eth0\" is already",
        ),
        (
            "/network-interfaces/1/guest_mac",
            json!("52:54:00:12:34:56"),
            "is already used by network-interfaces[0].guest_mac",
        ),
        ("/network-interfaces/0/guest_mac", json!("52:54:00:12:34"), "six hexadecimal bytes"),
        ("/network-interfaces/0/guest_mac", json!("52:54:00:12:34:56:78"), "six hexadecimal bytes"),
        ("/network-interfaces/0/guest_mac", json!("+1:54:00:12:34:56"), "six hexadecimal bytes"),
        ("/network-interfaces/0/guest_mac", json!("53:54:00:12:34:56"), "multicast"),
        ("/network-interfaces/0/guest_mac", json!("00:00:00:00:00:00"), "all-zero"),
        ("/vsock/uds_path", json!("x".repeat(108)), "is 108 bytes long"),
        ("/vsock/uds_path", json!(""), "vsock.uds_path: is required"),
        ("/console", json!({ "mode": "file" }), "console.path: is required"),
        ("/console", json!({ "path": "x" }), "is only for the modes"),
        ("/console", json!({ "mode": "socket" }), "console.path: is required"),
        ("/console", json!({ "mode": "socket", "path": "x".repeat(108) }), "is 108 bytes long"),
    ] {
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigInvalid, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn unknown_keys_and_types_are_refused_by_name() {
    for (pointer, value, expected) in [
        ("/bogus", json!(1), "unknown field `bogus`"),
        ("/boot-source/bogus", json!(1), "unknown field `bogus`"),
        ("/drives/0/bogus", json!(1), "unknown field `bogus`"),
        ("/network-interfaces/0/bogus", json!(1), "unknown field `bogus`"),
        ("/machine-config/bogus", json!(1), "unknown field `bogus`"),
        ("/vsock/bogus", json!(1), "unknown field `bogus`"),
        ("/entropy", json!({ "bogus": 1 }), "unknown field `bogus`"),
        ("/balloon/bogus", json!(1), "unknown field `bogus`"),
        ("/console", json!({ "bogus": 1 }), "unknown field `bogus`"),
        ("/drives/0/rate_limiter", json!({ "bogus": 1 }), "unknown field `bogus`"),
        ("/drives/0/cache_type", json!("None"), "unknown variant `None`"),
        ("/drives/0/format", json!("vmdk"), "unknown variant `vmdk`"),
        ("/machine-config/huge_pages", json!("1G"), "unknown variant `1G`"),
        ("/machine-config/vcpu_count", json!(-1), "invalid value: integer `-1`"),
        ("/drives/0/num_queues", json!(65536), "invalid value: integer `65536`"),
    ] {
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigSyntax, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn firecracker_keys_that_are_not_honoured_are_refused_unless_at_their_default() {
    for (pointer, default, value, expected) in [
        ("/machine-config/smt", json!(false), json!(true), "machine-config.smt: true"),
        (
            "/machine-config/cpu_template",
            json!("None"),
            json!("T2"),
            "\"T2\" is not supported; only \"None\" is",
        ),
    ] {
        check(&with(pointer, default)).unwrap();
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigUnsupported, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn bucket_of_no_size_or_no_time_limits_nothing() {
    for (size, refill) in [(0, 1), (1, 0), (0, 0)] {
        let bucket = json!({ "size": size, "refill_time": refill });
        let limiter = json!({ "ops": bucket, "bandwidth": { "size": 1, "refill_time": 1 } });
        let config = check(&with("/drives/0/rate_limiter", limiter)).unwrap();
        let limiter = config.drives[1].rate_limiter;
        assert!(limiter.ops.is_none() && limiter.bandwidth.is_some());
        let config = check(&with("/serial", json!({ "rate_limiter": bucket }))).unwrap();
        assert_eq!(config.serial.unwrap().rate_limiter, None);
    }
}

#[test]
fn text_that_is_not_json_is_a_syntax_error() {
    for text in ["", "{", "[]", "not json", "{\"drives\": 1}"] {
        let error = VmSpec::from_json(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigSyntax);
    }
}

#[test]
fn path_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'k', 0xff]));
    let boot_source =
        Some(BootSourceSpec { kernel_image_path: Some(path), ..BootSourceSpec::default() });
    let error = VmSpec { boot_source, ..VmSpec::default() }.validate().unwrap_err();
    assert!(error.to_string().contains("isn't UTF-8"), "{error}");
}

#[test]
fn field_reads_back_as_it_was_written() {
    for field in [
        Field::drive(3, "rate_limiter.ops.size"),
        Field::net(0, ""),
        Field::new(Section::BootSource, "initrd_path"),
        Field::pmem(2, "path_on_host"),
        Field::new(Section::MmdsConfig, "network_interfaces.0"),
        Field::new(Section::MemoryHotplug, "total_size_mib"),
        Field::new(Section::CpuConfig, ""),
        Field::new(Section::Logger, "log_path"),
        Field::new(Section::Metrics, "metrics_path"),
        Field::new(Section::Serial, "serial_out_path"),
        Field::new(Section::Other, "from-the-future"),
    ] {
        assert_eq!(field.to_string().parse(), Ok(field));
    }
}
