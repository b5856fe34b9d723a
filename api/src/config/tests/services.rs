//! What the API's newer paths configure: persistent and hot-plugged memory, metadata, CPU
//! templates, outputs, vhost-user drives.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{base, check, refusal, with};
use crate::config::*;
use crate::event::ErrorKind;

/// A configuration in which everything that's optional is there.
fn full() -> Value {
    let mut config = base();
    for (key, value) in [
        ("entropy", json!({ "rate_limiter": { "ops": { "size": 1, "refill_time": 2 } } })),
        (
            "balloon",
            json!({ "amount_mib": 1, "deflate_on_oom": false, "stats_polling_interval_s": 7,
                    "free_page_hinting": true, "free_page_reporting": true }),
        ),
        (
            "pmem",
            json!([
                { "id": "p0", "path_on_host": "p0.img", "read_only": true },
                { "id": "p1", "path_on_host": "p1.img",
                  "rate_limiter": { "bandwidth": { "size": 3, "refill_time": 4 } } }
            ]),
        ),
        (
            "memory-hotplug",
            json!({ "total_size_mib": 1024, "block_size_mib": 4, "slot_size_mib": 256 }),
        ),
        (
            "mmds-config",
            json!({ "version": "V2", "network_interfaces": ["eth1", "eth0"],
                    "ipv4_address": "169.254.1.2", "imds_compat": true }),
        ),
        (
            "cpu-config",
            json!({
                "kvm_capabilities": ["171", "!172"],
                "cpuid_modifiers": [{
                    "leaf": "0x80000001", "subleaf": "0b111", "flags": 1,
                    "modifiers": [{ "register": "edx", "bitmap": "0b0x1_0" }]
                }],
                "msr_modifiers": [{ "addr": "266", "bitmap": "1" }]
            }),
        ),
        (
            "logger",
            json!({ "log_path": "log", "level": "warning", "show_level": true,
                    "show_log_origin": true, "module": "vmm::vcpu" }),
        ),
        ("metrics", json!({ "metrics_path": "metrics" })),
        (
            "serial",
            json!({ "serial_out_path": "serial",
                    "rate_limiter": { "size": 5, "refill_time": 6, "one_time_burst": 7 } }),
        ),
    ] {
        config[key] = value;
    }
    config["machine-config"]["track_dirty_pages"] = true.into();
    config["network-interfaces"][0]["mtu"] = 1400.into();
    config["drives"][0] =
        json!({ "drive_id": "data", "socket": "blk.sock", "is_root_device": false });
    config
}

#[test]
fn everything_survives_the_way_to_json_and_back() {
    let config = check(&full()).unwrap();
    let text = serde_json::to_vec(&config).unwrap();
    assert_eq!(VmSpec::from_json(&text).unwrap().validate().unwrap(), config);
}

#[test]
fn everything_arrives_checked() {
    let config = check(&full()).unwrap();
    assert!(config.machine.track_dirty_pages);
    assert_eq!(config.drives[1].backend, DriveBackend::VhostUser("blk.sock".into()));
    assert_eq!(config.drives[1].image(), None);
    assert_eq!(config.nets[0].mtu, Some(1400));
    let entropy = config.entropy.unwrap().rate_limiter;
    assert_eq!(entropy.ops.unwrap().refill_time, 2);
    let balloon = config.balloon.unwrap();
    assert_eq!((balloon.stats_polling_interval_s, balloon.free_page_hinting), (7, true));
    assert_eq!((config.pmem[0].id.as_str(), config.pmem[0].read_only), ("p0", true));
    let memory = config.memory_hotplug.unwrap();
    assert_eq!((memory.total_mib, memory.block_mib, memory.slot_mib), (1024, 4, 256));
    let mmds = config.mmds.unwrap();
    assert_eq!((mmds.version, mmds.address), (MmdsVersion::V2, Ipv4Addr::new(169, 254, 1, 2)));
    assert_eq!((mmds.nets, mmds.imds_compat), (vec!["eth1".to_owned(), "eth0".to_owned()], true));
    assert_eq!(config.logger.unwrap().level, LogLevel::Warning);
    assert_eq!(config.metrics.unwrap().path.to_str(), Some("metrics"));
    assert_eq!(config.serial.unwrap().rate_limiter.unwrap().one_time_burst, Some(7));
}

#[test]
fn defaults_are_those_of_firecracker() {
    let config = with("/memory-hotplug", json!({ "total_size_mib": 128 }));
    let memory = check(&config).unwrap().memory_hotplug.unwrap();
    assert_eq!((memory.total_mib, memory.block_mib, memory.slot_mib), (128, 2, 128));

    let config = with("/mmds-config", json!({ "network_interfaces": ["eth0"] }));
    let mmds = check(&config).unwrap().mmds.unwrap();
    let address = Ipv4Addr::new(169, 254, 169, 254);
    assert_eq!((mmds.version, mmds.address, mmds.imds_compat), (MmdsVersion::V1, address, false));

    let logger = check(&with("/logger", json!({}))).unwrap().logger.unwrap();
    assert_eq!((logger.level, logger.path, logger.show_level), (LogLevel::Info, None, false));
}

#[test]
fn cpu_template_is_read_bit_by_bit() {
    let template = check(&full()).unwrap().cpu_template;
    assert_eq!(template.kvm_capabilities, [KvmCapability::Needed(171), KvmCapability::Waived(172)]);
    let leaf = &template.cpuid_modifiers[0];
    assert_eq!((leaf.leaf, leaf.subleaf, leaf.flags), (0x8000_0001, 7, 1));
    let edx = leaf.modifiers[0];
    assert_eq!(edx.register, CpuidRegister::Edx);
    assert_eq!((edx.bitmap.mask, edx.bitmap.value), (0b1011, 0b0010));
    assert_eq!(edx.bitmap.apply(0b1111_1101), 0b1111_0110);
    let msr = template.msr_modifiers[0];
    assert_eq!((msr.addr, msr.bitmap.mask, msr.bitmap.value), (266, 1, 1));
}

#[test]
fn bitmap_is_written_with_every_bit() {
    let bitmap = Bitmap { mask: 0x8000_0003_u32, value: 0x8000_0001 };
    let text = serde_json::to_string(&bitmap).unwrap();
    assert_eq!(text, format!("\"0b1{}01\"", "x".repeat(29)));
    assert_eq!(serde_json::from_str::<Bitmap<u32>>(&text).unwrap(), bitmap);
    let full = Bitmap { mask: u64::MAX, value: 1 << 63 };
    let text = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<Bitmap<u64>>(&text).unwrap(), full);
}

#[test]
fn root_on_persistent_memory_is_named_on_the_command_line() {
    let mut config = full();
    config["drives"] = json!([]);
    config["pmem"][1]["root_device"] = true.into();
    let cmdline = |config: &Value| check(config).unwrap().boot.cmdline;
    assert!(cmdline(&config).ends_with(" root=/dev/pmem1 rw"));
    config["pmem"][1]["read_only"] = true.into();
    assert!(cmdline(&config).ends_with(" root=/dev/pmem1 ro"));
}

#[test]
fn malformed_services_are_refused_with_field_and_reason() {
    let memory = |total: u64, block: u64, slot: u64| json!({ "total_size_mib": total, "block_size_mib": block, "slot_size_mib": slot });
    let mmds =
        |address: &str, nets: Value| json!({ "network_interfaces": nets, "ipv4_address": address });
    let pmem = |id: &str, path: &str, root: bool| json!([{ "id": id, "path_on_host": path, "root_device": root }]);
    let two = |second: Value| json!([{ "id": "a", "path_on_host": "x" }, second]);
    let vhost = |key: &str, value: Value| {
        let mut drive = json!({ "drive_id": "d", "socket": "s" });
        drive[key] = value;
        drive
    };
    for (pointer, value, expected) in [
        ("/memory-hotplug", memory(1024, 1, 128), "memory-hotplug.block_size_mib: 1 is not from 2"),
        ("/memory-hotplug", memory(1024, 3, 128), "block_size_mib: 3 is not a power of two"),
        ("/memory-hotplug", memory(1024, 2, 127), "slot_size_mib: 127 is not from 128"),
        ("/memory-hotplug", memory(1024, 4, 130), "130 is not a multiple of block_size_mib, 4"),
        ("/memory-hotplug", memory(64, 2, 128), "total_size_mib: 64 is not from 128"),
        ("/memory-hotplug", memory(1000, 2, 128), "1000 is not a multiple of slot_size_mib, 128"),
        ("/memory-hotplug", memory(0, 2, 128), "total_size_mib: 0"),
        ("/memory-hotplug", memory(MAX_MEM_MIB, 2, 128), "total_size_mib: 67108864 is not from"),
        ("/memory-hotplug", memory(u64::MAX, u64::MAX, u64::MAX), "block_size_mib"),
        ("/mmds-config", mmds("169.254.0.1", json!(["eth0"])), "mmds-config.ipv4_address"),
        ("/mmds-config", mmds("169.254.255.1", json!(["eth0"])), "mmds-config.ipv4_address"),
        ("/mmds-config", mmds("10.0.0.1", json!(["eth0"])), "link-local"),
        ("/mmds-config", mmds("169.254.1.1", json!([])), "network_interfaces: is required"),
        ("/mmds-config", mmds("169.254.1.1", json!(["eth9"])), "\"eth9\" is no network interface"),
        (
            "/mmds-config",
            mmds("169.254.1.1", json!(["eth0", "eth0"])),
            "already used by mmds-config.network_interfaces.0",
        ),
        ("/pmem", pmem("", "x", false), "pmem[0].id: is required"),
        ("/pmem", pmem("a b", "x", false), "pmem[0].id: \"a b\" is no identifier"),
        ("/pmem", pmem("a", "", false), "pmem[0].path_on_host: is required"),
        ("/pmem", pmem("a", "x\0", false), "has a NUL"),
        (
            "/pmem",
            pmem("a", "x", true),
            "pmem[0].root_device: \"x\" is already used by drives[0].is_root_device",
        ),
        ("/pmem", pmem("a", "root.img", false), "already used by drives[0].path_on_host"),
        (
            "/pmem",
            two(json!({ "id": "a", "path_on_host": "y" })),
            "pmem[1].id: \"a\" is already used by pmem[0].id",
        ),
        ("/pmem", two(json!({ "id": "b", "path_on_host": "x" })), "pmem[1].path_on_host"),
        ("/network-interfaces/0/mtu", json!(67), "network-interfaces[0].mtu: 67 is not from 68"),
        ("/drives/0", vhost("path_on_host", json!("x")), "leave out path_on_host beside it"),
        ("/drives/0", vhost("is_read_only", json!(false)), "leave out is_read_only"),
        ("/drives/0", vhost("io_engine", json!("Sync")), "leave out io_engine"),
        ("/drives/0", vhost("rate_limiter", json!({})), "leave out rate_limiter"),
        ("/drives/0", vhost("format", json!("raw")), "leave out format"),
        ("/drives/0", vhost("serial", json!("s")), "leave out serial"),
        (
            "/drives/0",
            vhost("backing", json!([{ "path_on_host": "b", "format": "raw" }])),
            "leave out backing",
        ),
        ("/drives/0", vhost("socket", json!("")), "drives[0].socket: is required"),
        ("/drives/0", vhost("socket", json!("x".repeat(108))), "108 bytes long"),
        (
            "/drives",
            json!([vhost("drive_id", json!("a")), vhost("drive_id", json!("b"))]),
            "drives[1].socket: \"s\" is already used",
        ),
        ("/logger", json!({ "log_path": "" }), "logger.log_path: is required"),
        ("/metrics", json!({ "metrics_path": "" }), "metrics.metrics_path: is required"),
        ("/serial", json!({ "serial_out_path": "" }), "serial.serial_out_path: is required"),
    ] {
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigInvalid, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn services_of_the_wrong_form_are_refused_by_name() {
    let leaf = |key: &str, value: Value| {
        let mut leaf = json!({ "leaf": "0", "subleaf": "0", "flags": 0, "modifiers": [] });
        leaf[key] = value;
        json!({ "cpuid_modifiers": [leaf] })
    };
    let bitmap = |text: &str| leaf("modifiers", json!([{ "register": "eax", "bitmap": text }]));
    let msr =
        |addr: &str, bitmap: &str| json!({ "msr_modifiers": [{ "addr": addr, "bitmap": bitmap }] });
    for (pointer, value, expected) in [
        ("/cpu-config", json!({ "bogus": 1 }), "unknown field `bogus`"),
        ("/cpu-config", json!({ "reg_modifiers": [] }), "unknown field `reg_modifiers`"),
        ("/cpu-config", json!({ "kvm_capabilities": ["!"] }), "\"!\" is no capability"),
        ("/cpu-config", json!({ "kvm_capabilities": ["+1"] }), "\"+1\" is no capability"),
        ("/cpu-config", json!({ "kvm_capabilities": ["4294967296"] }), "is no capability"),
        ("/cpu-config", leaf("leaf", json!("0x")), "\"0x\" is no 32-bit number"),
        ("/cpu-config", leaf("leaf", json!("")), "\"\" is no 32-bit number"),
        ("/cpu-config", leaf("leaf", json!("0x1_0000_0000")), "is no 32-bit number"),
        ("/cpu-config", leaf("leaf", json!("4294967296")), "is no 32-bit number"),
        ("/cpu-config", leaf("leaf", json!("-1")), "is no 32-bit number"),
        ("/cpu-config", leaf("leaf", json!("0b2")), "is no 32-bit number"),
        ("/cpu-config", leaf("subleaf", json!(0)), "expected a string"),
        ("/cpu-config", leaf("flags", json!("0")), "expected u32"),
        ("/cpu-config", leaf("bogus", json!("0")), "unknown field `bogus`"),
        (
            "/cpu-config",
            leaf("modifiers", json!([{ "register": "rax", "bitmap": "1" }])),
            "unknown variant `rax`",
        ),
        ("/cpu-config", bitmap(""), "has no digits"),
        ("/cpu-config", bitmap("0b"), "has no digits"),
        ("/cpu-config", bitmap("0b2"), "has '2'"),
        ("/cpu-config", bitmap("0bX"), "has 'X'"),
        ("/cpu-config", bitmap("0bü"), "has 'ü'"),
        ("/cpu-config", bitmap(&"x".repeat(33)), "is too long: the register has 32 bits"),
        ("/cpu-config", msr("0x1", &"0".repeat(65)), "is too long: the register has 64 bits"),
        ("/cpu-config", msr("0xg", "1"), "is no 32-bit number"),
        ("/logger", json!({ "level": "loud" }), "unknown level \"loud\""),
        ("/logger", json!({ "bogus": 1 }), "unknown field `bogus`"),
        ("/metrics", json!({}), "missing field `metrics_path`"),
        ("/serial", json!({ "bogus": 1 }), "unknown field `bogus`"),
        (
            "/mmds-config",
            json!({ "version": "V3", "network_interfaces": [] }),
            "unknown variant `V3`",
        ),
        ("/mmds-config", json!({}), "missing field `network_interfaces`"),
        ("/mmds-config", json!({ "network_interfaces": [], "ipv4_address": "1.2" }), "IPv4"),
        ("/memory-hotplug", json!({}), "missing field `total_size_mib`"),
        ("/memory-hotplug", json!({ "total_size_mib": -1 }), "invalid value: integer `-1`"),
        ("/pmem", json!([{}]), "missing field `id`"),
        ("/pmem", json!([{ "id": "a" }]), "missing field `path_on_host`"),
        ("/pmem", json!({}), "expected a sequence"),
        ("/balloon/stats_polling_interval_s", json!(65536), "integer `65536`"),
        ("/network-interfaces/0/mtu", json!(65536), "integer `65536`"),
    ] {
        let (kind, message) = refusal(pointer, value);
        assert_eq!(kind, ErrorKind::ConfigSyntax, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn serial_output_goes_to_one_place_only() {
    for console in [
        json!({ "mode": "file", "path": "log" }),
        json!({ "mode": "none" }),
        json!({ "device": "virtio" }),
    ] {
        let mut config = full();
        config["console"] = console;
        let error = check(&config).unwrap_err();
        assert!(error.to_string().starts_with("serial.serial_out_path: "), "{error}");
        config["serial"]["serial_out_path"] = Value::Null;
        check(&config).unwrap();
    }
}

#[test]
fn unfinished_configuration_may_lack_kernel_and_memory() {
    let spec = |value: Value| VmSpec::from_json(value.to_string().as_bytes()).unwrap();
    spec(json!({})).check().unwrap();
    spec(json!({ "balloon": { "amount_mib": 4096 } })).check().unwrap();
    assert!(
        spec(json!({ "machine-config": { "mem_size_mib": 128 },
                         "balloon": { "amount_mib": 128 } }))
        .check()
        .is_err()
    );
    assert!(spec(json!({ "boot-source": {} })).check().is_err());
    assert!(spec(json!({ "drives": [{ "drive_id": "a" }] })).check().is_err());
}

#[test]
fn added_devices_are_checked_against_those_that_are_there() {
    let config = check(&full()).unwrap();
    let drive = |id: &str, path: &str| DriveSpec {
        drive_id: id.to_owned(),
        path_on_host: Some(path.into()),
        ..DriveSpec::default()
    };
    assert_eq!(config.check_drive(drive("new", "new.img")).unwrap().id, "new");
    for (spec, expected) in [
        (drive("root", "new.img"), "drives[2].drive_id: \"root\" is already used"),
        (drive("new", "root.img"), "drives[2].path_on_host: \"root.img\" is already used"),
        (drive("new", "p1.img"), "already used by pmem[1].path_on_host"),
        (drive("", "new.img"), "drives[2].drive_id: is required"),
    ] {
        let error = config.check_drive(spec).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    let net = |id: &str, tap: &str| NetSpec {
        iface_id: id.to_owned(),
        host_dev_name: tap.to_owned(),
        ..NetSpec::default()
    };
    assert_eq!(
        config.check_net(net("eth2", "tap2")).unwrap().host,
        NetHost::Tap("tap2".to_owned())
    );
    assert!(config.check_net(net("eth0", "tap2")).is_err());
    assert!(config.check_net(net("eth2", "tap0")).is_err());
    let pmem = |id: &str, path: &str| PmemSpec {
        id: id.to_owned(),
        path_on_host: path.into(),
        ..PmemSpec::default()
    };
    assert_eq!(config.check_pmem(pmem("p2", "p2.img")).unwrap().id, "p2");
    assert!(config.check_pmem(pmem("p0", "p2.img")).is_err());
    assert!(config.check_pmem(pmem("p2", "p1.img")).is_err());
    assert!(config.check_pmem(pmem("p2", "root.img")).is_err());
}

#[test]
fn levels_are_read_in_any_case() {
    for (text, level) in [
        ("off", LogLevel::Off),
        ("ERROR", LogLevel::Error),
        ("warn", LogLevel::Warning),
        ("Warning", LogLevel::Warning),
        ("iNFO", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("Trace", LogLevel::Trace),
    ] {
        assert_eq!(text.parse(), Ok(level));
    }
    assert!("".parse::<LogLevel>().is_err());
}
