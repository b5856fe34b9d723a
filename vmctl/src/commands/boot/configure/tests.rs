//! Flags over files, defaults, and the names that errors use.

use api::config::{CacheType, ConsoleOutput, Transport};
use clap::Parser;

use super::*;
use crate::errors::CliError;

#[derive(Parser)]
struct TestCli {
    #[command(flatten)]
    args: BootArgs,
}

fn args(line: &str) -> BootArgs {
    let words = std::iter::once("boot").chain(line.split_whitespace());
    TestCli::try_parse_from(words).unwrap().args
}

fn spec(json: serde_json::Value) -> VmSpec {
    VmSpec::from_json(json.to_string().as_bytes()).unwrap()
}

fn config(line: &str, file: VmSpec) -> VmConfig {
    assemble(&args(line), file).0.validate().unwrap()
}

fn message(line: &str, file: VmSpec) -> String {
    let (spec, origins) = assemble(&args(line), file);
    match origins.explain(spec.validate().unwrap_err()) {
        error @ CliError::Config { .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn kernel_alone_gets_the_documented_defaults() {
    let config = config("--kernel k", VmSpec::default());
    assert_eq!((config.machine.vcpus, config.machine.mem_mib), (1, 512));
    assert_eq!(config.machine.transport, Transport::Pci);
    assert_eq!(config.boot.cmdline, "console=ttyS0 reboot=k panic=-1");
    assert!(config.entropy.is_none() && config.balloon.is_none() && config.vsock.is_none());
}

#[test]
fn first_disk_is_the_root_unless_a_command_line_is_given() {
    let disks = "--kernel k --disk a.img,ro --disk b.img";
    let default = config(disks, VmSpec::default());
    assert_eq!(default.boot.cmdline, "console=ttyS0 reboot=k panic=-1 root=/dev/vda ro");
    assert!(default.drives[0].is_root && !default.drives[1].is_root);
    assert_eq!(default.drives[0].cache, CacheType::Writeback);
    let given = config(&format!("{disks} --cmdline quiet"), VmSpec::default());
    assert_eq!(given.boot.cmdline, "quiet");
    let order: Vec<_> = given.drives.iter().map(|drive| drive.id.as_str()).collect();
    assert_eq!(order, ["disk0", "disk1"]);
}

#[test]
fn flags_replace_the_files_values_and_extend_its_lists() {
    let file = spec(serde_json::json!({
        "boot-source": { "kernel_image_path": "file-kernel", "boot_args": "from-file" },
        "drives": [{ "drive_id": "disk0", "path_on_host": "f.img", "is_root_device": true }],
        "network-interfaces": [{ "iface_id": "eth0", "host_dev_name": "tap0" }],
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 128 },
        "balloon": { "amount_mib": 16, "deflate_on_oom": false }
    }));
    let line = "--cpus 4 --memory 1G --disk x.img --net tap=tap1 --balloon --rng --hugepages \
                --transport mmio --console none --vsock cid=7,path=v";
    let config = config(line, file);
    assert_eq!((config.machine.vcpus, config.machine.mem_mib), (4, 1024));
    assert_eq!(config.machine.transport, Transport::Mmio);
    assert_eq!(config.machine.huge_pages, HugePages::Size2M);
    assert_eq!(config.boot.kernel.to_str(), Some("file-kernel"));
    assert_eq!(config.boot.cmdline, "from-file root=/dev/vda rw");
    let ids: Vec<_> = config.drives.iter().map(|drive| drive.id.as_str()).collect();
    assert_eq!(ids, ["disk0", "disk1"]);
    assert_eq!(config.nets[1].id, "net0");
    assert_eq!(config.balloon.unwrap().amount_mib, 16);
    assert_eq!(config.vsock.unwrap().guest_cid, 7);
    assert_eq!(config.console.output, ConsoleOutput::None);
    assert!(config.entropy.is_some());
}

#[test]
fn command_line_flag_is_passed_on_byte_for_byte_even_over_a_files_root() {
    let file = spec(serde_json::json!({
        "boot-source": { "kernel_image_path": "k", "boot_args": "from-file" },
        "drives": [
            { "drive_id": "a", "path_on_host": "a.img" },
            { "drive_id": "root", "path_on_host": "r.img", "is_root_device": true }
        ]
    }));
    let config = config("--cmdline quiet", file);
    assert_eq!(config.boot.cmdline, "quiet");
    assert_eq!(config.drives[0].id, "root");
}

#[test]
fn errors_name_the_flag_and_its_value() {
    for (line, expected) in [
        ("", "--kernel: is required"),
        ("--kernel k --cpus 0", "--cpus 0: 0 is not from 1 to 32"),
        ("--kernel k --cpus 33", "--cpus 33: 33 is not from 1 to 32"),
        ("--kernel k --memory 0", "--memory 0: 0 is not from 1"),
        ("--kernel k --hugepages --memory 3M", "--memory 3M: 3 is not an even number of MiB"),
        (
            "--kernel k --disk a,serial=123456789012345678901",
            "--disk a,serial=123456789012345678901: ",
        ),
        ("--kernel k --disk a,queues=17", "--disk a,queues=17: 17 is not from 1 to 16"),
        ("--kernel k --disk a --disk a,ro", "--disk a,ro: \"a\" is already used by --disk a"),
        (
            "--kernel k --net tap=name-with-16-byt",
            "--net tap=name-with-16-byt: \"name-with-16-byt\" is 16 bytes",
        ),
        ("--kernel k --net tap=a,mac=01:00:00:00:00:00", "is no address for an interface"),
        ("--kernel k --vsock cid=2,path=v", "--vsock cid=2,path=v: 2 is not from 3"),
        ("--kernel k --console file=", "needs a value"),
    ] {
        if line.ends_with('=') {
            let words = std::iter::once("boot").chain(line.split_whitespace());
            let error = TestCli::try_parse_from(words).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
            continue;
        }
        let message = message(line, VmSpec::default());
        assert!(message.contains(expected), "{line}: {message:?} lacks {expected:?}");
    }
}

#[test]
fn errors_in_the_file_name_the_file_and_the_place() {
    let file = || {
        spec(serde_json::json!({
            "boot-source": { "kernel_image_path": "k" },
            "machine-config": { "vcpu_count": 99 },
            "drives": [{ "drive_id": "a", "path_on_host": "a.img", "num_queues": 0 }]
        }))
    };
    assert!(
        message("--config vm.json", file())
            .starts_with("--config vm.json: machine-config.vcpu_count: 99")
    );
    let text = message("--config vm.json --cpus 1", file());
    assert!(text.starts_with("--config vm.json: drives[0].num_queues: 0"), "{text}");
}

#[test]
fn root_device_and_its_flag_move_together() {
    let file = spec(serde_json::json!({
        "boot-source": { "kernel_image_path": "k" },
        "drives": [{ "drive_id": "a", "path_on_host": "a.img" }]
    }));
    let (_, origins) = assemble(&args("--disk r.img --config f"), file);
    assert_eq!(origins.place(&Field::drive(0, "path_on_host")), "--disk r.img");
    assert_eq!(
        origins.place(&Field::drive(1, "path_on_host")),
        "--config f: drives[1].path_on_host"
    );
}

#[test]
fn shares_are_in_one_file_system_and_named_by_their_flags() {
    let file = || {
        spec(serde_json::json!({
            "filesystems": [{ "fs_id": "other" }, { "fs_id": "shares", "shares": [{ "path": "/a" }] }]
        }))
    };
    let config = config("--kernel k --share www=/srv:ro --share /b", file());
    assert_eq!(config.filesystems.len(), 2);
    let shares = &config.filesystems[1].shares;
    let names: Vec<_> = shares.iter().map(|share| share.name.as_str()).collect();
    assert_eq!(names, ["0", "www", "2"]);
    assert!(shares[1].read_only && config.filesystems[1].tag == "shares");

    let text = message("--kernel k --share a=/a --share a=/b", VmSpec::default());
    assert!(text.contains("--share a=/b") && text.contains("by --share a=/a"), "{text}");
    let text = message("--kernel k --share 0=/b", file());
    assert!(text.contains("--share 0=/b: \"0\" is already used by filesystems[1]"), "{text}");
}
