//! What users get wrong: one clear error and a hint each, and nothing half-made left behind.

use std::net::TcpListener;

use anyhow::{Result, ensure};

use crate::support::host;

#[test]
fn mistakes_are_explained_and_leave_nothing() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let taken = TcpListener::bind(("0.0.0.0", 0))?;
    let port = taken.local_addr()?.port();
    for (line, code, word) in [
        ("run no-such-image true", 125, "no-such-image"),
        ("run busybox:no-such-tag true", 125, "no-such-tag"),
        ("run --memory 1m busybox true", 125, "memory"),
        ("run -v /no/such/path/there:/x:ro,wrong busybox true", 125, "wrong"),
        ("run --mount type=bind,source=/no/such/path,target=/x busybox true", 125, "/no/such/path"),
        ("run --network no-such-network busybox true", 125, "no-such-network"),
        ("run --user no-such-user busybox true", 125, "no-such-user"),
        ("run --no-such-flag busybox", 125, "no-such-flag"),
        ("run Bad/NAME true", 125, "lowercase"),
        ("exec no-such-container true", 1, "no-such-container"),
        ("logs no-such-container", 1, "no-such-container"),
        ("rmi no-such-image", 1, "no-such-image"),
        ("pull 127.0.0.1:1/nobody/there", 1, "127.0.0.1:1"),
        (&format!("run -p {port}:80 busybox true"), 125, &port.to_string()),
    ] {
        let error = host.fails(line, code)?;
        ensure!(error.contains("error: ") && error.contains(word), "{line}: {error}");
        ensure!(host.ok("ps --all --quiet")?.is_empty(), "{line}: a container is left");
    }
    Ok(())
}
