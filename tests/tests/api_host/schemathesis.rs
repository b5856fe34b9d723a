//! Schemathesis against the document that the VMM serves: examples, the corners of each schema,
//! random data, and chains of requests along the document's links.

use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use integration_tests::api_vm::ApiVm;
use integration_tests::artifacts;
use integration_tests::curl::ask;
use integration_tests::python;

use crate::workshop::{Workshop, end};

/// What to install, each package with its version.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// Whom the VMM runs as: it opens what generated requests name, so it mustn't be able to.
const NOBODY: &str = "65534";

/// What must hold for every answer. Refusing unknown methods with 405 isn't among it: Firecracker's
/// paths answer with 400.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    use_after_free,missing_required_header,allow_header_conformance";

/// Ends the VMM: tried by other tests.
const KILL: &str = "/ext/v1/kill";

/// Wrong data may make a body too large, which is refused before it's read; events don't end unless
/// they're told to.
const CONFIGURATION: &str = r#"
[checks.negative_data_rejection]
expected-statuses = ["400", "404", "413"]

[[operations]]
include-operation-id = "extEvents"
parameters = { follow = false }
"#;

/// Random test cases for each operation.
const EXAMPLES: &str = "20";

#[test]
fn document_and_answers_agree_whatever_is_asked() -> Result<()> {
    let python = python::environment(REQUIREMENTS)?;
    let workshop = Workshop::new()?;
    let vmm = unprivileged(&workshop)?;
    let address = forward(vmm.socket().to_owned())?;
    // Once as the document has it; the seed makes a failure come back.
    let seed = std::env::var("VMCTL_SEED").unwrap_or_else(|_| "1".to_owned());
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("schemathesis.toml"), CONFIGURATION)?;
    let log = artifacts::log_directory()?.join("schemathesis.log");
    let report = File::create(&log)?;
    let status = Command::new(python)
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("http://{address}/ext/v1/openapi.json"))
        .args(["--url", &format!("http://{address}"), "--exclude-path", KILL])
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", &seed])
        .args(["--request-timeout", "30", "--continue-on-failure", "--warnings", "off"])
        .args(["--no-color", "--generation-database", "none"])
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stderr(report.try_clone()?)
        .stdout(report)
        .status()
        .context("run schemathesis")?;
    let report = fs::read_to_string(&log)?;
    ensure!(status.success(), "seed {seed}: {status}; see {log:?}\n{}", failures(&report));
    ask(vmm.socket(), "GET", "/", "").context("the VMM afterwards")?;
    fs::remove_file(&log)?;
    end(vmm)
}

/// The end of a report that tells of failures.
fn failures(report: &str) -> &str {
    report.find("= FAILURES =").map_or(report, |at| &report[at..])
}

/// Starts a `vmm` as a user who can write nowhere but in the workshop.
fn unprivileged(workshop: &Workshop) -> Result<ApiVm> {
    let program = workshop.path().join("vmm");
    fs::copy(artifacts::vmm(), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(workshop.path(), fs::Permissions::from_mode(0o777))?;
    let mut command = Command::new("setpriv");
    if !rustix::process::geteuid().is_root() {
        command = Command::new("sudo");
        command.args(["--non-interactive", "setpriv"]);
    }
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
    command.args(["--clear-groups", "--no-new-privs", "--"]).arg(program);
    command.current_dir(workshop.path());
    ApiVm::spawn_by(command, "schemathesis", workshop.path())
}

/// Serves the Unix socket over TCP, on threads that end with the process.
fn forward(socket: PathBuf) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let socket = socket.clone();
            thread::spawn(move || connect(&client, &socket));
        }
    });
    Ok(address)
}

/// Connects one client. What fails ends its connection, which the client then sees.
fn connect(client: &TcpStream, socket: &Path) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (mut from_client, mut to_client) = (client, client);
    let (mut from_server, mut to_server) = (&server, &server);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
