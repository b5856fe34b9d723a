//! What `vmctl` prints when it's asked something.

use anyhow::{Context, Result, ensure};
use integration_tests::artifacts;
use serde_json::Value;

use crate::run::{Workshop, run, vmctl};

/// Runs `vmctl` with arguments that must succeed, and returns its standard output.
fn printed(arguments: &[&str]) -> Result<String> {
    let run = run(vmctl(arguments))?;
    ensure!(run.code == 0, "{arguments:?} ended with {}: {}", run.code, run.stderr);
    ensure!(run.stderr.is_empty(), "{arguments:?} said {}", run.stderr);
    Ok(run.stdout)
}

#[test]
fn dry_run_prints_what_config_reads_again() -> Result<()> {
    let workshop = Workshop::new()?;
    let kernel = artifacts::lean_kernel().display().to_string();
    let every_flag = "--initrd i.img --disk a.img,engine=uring,cache=unsafe,iops=10,bw=4M,queues=2 \
        --disk b.qcow2,ro,format=qcow2,serial=two,engine=sync --net tap=tap0,queues=2,tx-bw=1M \
        --net tap=tap1,mac=52:54:00:00:00:01 --cpus 4 --memory 2G --vsock cid=7,path=v.sock --rng \
        --balloon --transport mmio --console file=c.log,device=virtio --hugepages";
    for flags in ["", "--disk a.img", "--disk a.img --cmdline quiet", every_flag] {
        let mut arguments = vec!["boot", "--dry-run", "--kernel", &kernel];
        arguments.extend(flags.split_whitespace());
        let first = printed(&arguments)?;
        serde_json::from_str::<Value>(&first).with_context(|| first.clone())?;
        let file = workshop.file("config.json", first.as_bytes())?;
        let file = file.to_str().context("UTF-8")?;
        let second = printed(&["boot", "--dry-run", "--config", file])?;
        ensure!(second == first, "with {flags:?} first\n{first}\nthen\n{second}");
    }
    Ok(())
}

#[test]
fn dry_run_says_what_the_flags_said() -> Result<()> {
    let text = printed(&[
        "boot",
        "--dry-run",
        "--kernel",
        "k",
        "--disk",
        "d.img,ro",
        "--cpus",
        "3",
        "--memory",
        "1G",
    ])?;
    let config: Value = serde_json::from_str(&text)?;
    for (pointer, expected) in [
        ("/boot-source/kernel_image_path", Value::from("k")),
        ("/drives/0/path_on_host", Value::from("d.img")),
        ("/drives/0/is_read_only", Value::from(true)),
        ("/machine-config/vcpu_count", Value::from(3)),
        ("/machine-config/mem_size_mib", Value::from(1024)),
    ] {
        ensure!(config.pointer(pointer) == Some(&expected), "no {pointer} of {expected}: {text}");
    }
    Ok(())
}

#[test]
fn doctor_finds_this_host_fit_for_linux_guests() -> Result<()> {
    let table = printed(&["doctor"])?;
    ensure!(table.contains("can run Linux guests: yes"), "{table}");
    ensure!(table.contains("/dev/kvm"), "{table}");
    let report: Value = serde_json::from_str(&printed(&["doctor", "--json"])?)?;
    ensure!(report.pointer("/linux_guests/can_run") == Some(&Value::from(true)), "{report}");
    ensure!(report.pointer("/kvm/api_version") == Some(&Value::from(12)), "{report}");
    Ok(())
}

#[test]
fn version_and_help_are_on_standard_output() -> Result<()> {
    ensure!(printed(&["--version"])?.starts_with("vmctl "));
    let help = printed(&["--help"])?;
    ensure!(help.contains("boot") && help.contains("doctor"), "{help}");
    let help = printed(&["boot", "--help"])?;
    for flag in ["--kernel", "--disk", "--net", "--vsock", "--config", "--dry-run", "Ctrl-A x"] {
        ensure!(help.contains(flag), "no {flag}: {help}");
    }
    Ok(())
}
