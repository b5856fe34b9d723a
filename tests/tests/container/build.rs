//! Images built by Dockerfiles: commands in virtual machines, stages, the cache, what fails.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::containers::{Host, finish};
use integration_tests::vm::{signal_process, wait_process};
use rustix::process::Signal;

use crate::support::host;

/// Makes a context with a Dockerfile.
fn context(host: &Host, name: &str, dockerfile: &str) -> Result<PathBuf> {
    let context = host.path(name);
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), dockerfile)?;
    Ok(context)
}

/// A tag's image.
fn id(host: &Host, name: &str) -> Result<String> {
    Ok(host.ok(&format!("images --quiet --no-trunc {name}"))?.trim().to_owned())
}

const STAGES: &str = r#"ARG BASE=busybox
FROM ${BASE} AS build
ARG WHAT=nobody
WORKDIR /src
COPY data.txt .
RUN tr a-z A-Z <data.txt >upper.txt && echo "for $WHAT" >>upper.txt && rm data.txt

FROM busybox
COPY --from=build --chown=7:8 /src /app
USER 7
RUN <<EOF
id -u
touch /tmp/mine
ls -A /app
EOF
CMD ["cat", "/app/upper.txt"]
"#;

#[test]
fn several_stages_with_commands_make_one_image() -> Result<()> {
    let host = host()?;
    let context = context(&host, "stages", STAGES)?;
    fs::write(context.join("data.txt"), "text\n")?;
    let line = format!("build -t app --build-arg WHAT=you {}", context.display());
    let said = host.ok(&line)?;
    ensure!(said.contains("Step 1/11 : ARG BASE=busybox\n"), "{said}");
    ensure!(said.contains("\n7\nupper.txt\n"), "the command's user or files: {said}");
    ensure!(said.ends_with("Successfully tagged app:latest\n"), "{said}");
    ensure!(host.ok("run --rm app")? == "TEXT\nfor you\n");
    let owners = host.ok("run --rm app stat -c %u:%g /app/upper.txt /tmp/mine")?;
    ensure!(owners == "7:8\n7:0\n", "{owners}");
    let first = id(&host, "app")?;

    let again = host.ok(&line)?;
    ensure!(!again.contains("Running in"), "a command was run again: {again}");
    ensure!(again.matches(" ---> Using cache\n").count() == 5, "{again}");
    ensure!(id(&host, "app")? == first);
    ensure!(host.ok("ps --all --quiet")?.is_empty(), "a command's container is left");
    Ok(())
}

#[test]
fn layers_hold_what_commands_made_changed_and_removed() -> Result<()> {
    let host = host()?;
    let dockerfile = "FROM debian\n\
        RUN useradd --create-home worker && rm -r /usr/share/doc && ln -s /etc/passwd /link\n\
        RUN <<SCRIPT\n#!/bin/bash\nset -e\nwords=(one two)\necho ${words[1]} >/two\n\
        getent passwd worker\nSCRIPT\n";
    let context = context(&host, "layers", dockerfile)?;
    let said = host.ok(&format!("build -t layers {}", context.display()))?;
    ensure!(said.contains(":/home/worker:"), "the layer below isn't seen: {said}");
    let script = "cat /two; readlink /link; stat -c %U /home/worker; test -e /usr/share/doc; echo $?; \
                  ls -A /dev/pipes /run 2>&1 | grep -c SCRIPT; cat /etc/hostname";
    let said = finish(
        &mut host.command(["run", "--rm", "--hostname", "h", "layers", "sh", "-c", script]),
        b"",
    )?;
    ensure!(said.out == "two\n/etc/passwd\nworker\n1\n0\nh\n", "{said:#?}");
    Ok(())
}

#[test]
fn command_that_fails_is_named_with_its_line_and_leaves_nothing() -> Result<()> {
    let host = host()?;
    for (step, expected) in [
        ("RUN echo reason >&2; exit 3", "the command exited with code 3"),
        ("RUN [\"/no/such/program\"]", "/no/such/program"),
        ("COPY none /", "none isn't in the build context"),
        ("RUNN true", "there's no instruction RUNN"),
    ] {
        let context = context(&host, "fails", &format!("FROM busybox\n{step}\n"))?;
        let error = host.fails(&format!("build -q -t fails {}", context.display()), 1)?;
        ensure!(error.contains(&format!("Dockerfile:2: `{step}`")), "{error}");
        ensure!(error.contains(expected), "{error}");
        ensure!(step.contains("reason") == error.contains("reason\n"), "{error}");
        ensure!(host.ok("ps --all --quiet")?.is_empty(), "{step}: a container is left");
        ensure!(id(&host, "fails")?.is_empty());
    }
    Ok(())
}

#[test]
fn contexts_and_dockerfiles_come_from_standard_input() -> Result<()> {
    let host = host()?;
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in
        [("docker/File", &b"FROM busybox\nCOPY f /f\nCMD cat /f\n"[..]), ("f", b"archived\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, content)?;
    }
    let archive = builder.into_inner()?;
    let said = finish(
        &mut host.command(["build", "-q", "-f", "docker/File", "-t", "piped", "-"]),
        &archive,
    )?;
    ensure!(said.code == 0 && said.out.trim() == id(&host, "piped")?, "{said:#?}");
    ensure!(host.ok("run --rm piped")? == "archived\n");

    let context = context(&host, "unused", "FROM scratch\n")?;
    let context = context.display().to_string();
    let dockerfile = b"FROM busybox\nCMD echo from stdin\n";
    let said =
        finish(&mut host.command(["build", "-t", "piped", "-f", "-", &context]), dockerfile)?;
    ensure!(said.code == 0, "{said:#?}");
    ensure!(host.ok("run --rm piped")? == "from stdin\n");
    Ok(())
}

#[test]
fn build_that_is_interrupted_leaves_no_container() -> Result<()> {
    let host = host()?;
    let context = context(&host, "endless", "FROM busybox\nRUN echo begun; sleep 100000\n")?;
    let context = context.display().to_string();
    let mut child =
        host.command(["build", "-t", "endless", &context]).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("standard output is piped")?;
    let mut said = String::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        said += &line;
        if line == "begun" {
            signal_process(child.id(), Signal::INT)?;
        }
    }
    ensure!(wait_process(child.id(), PATIENCE)?, "{said}");
    ensure!(child.wait()?.code() == Some(130), "{said}");
    ensure!(host.ok("ps --all --quiet")?.is_empty(), "{said}");
    ensure!(id(&host, "endless")?.is_empty());
    Ok(())
}
