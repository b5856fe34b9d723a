//! The examples of the lecture that this project came from, as they're written there.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::containers::{Registry, finish};
use integration_tests::terminal::Terminal;

use crate::support::{curl, host, rows};

#[test]
fn hello_world_says_hello_from_a_kernel_of_its_own() -> Result<()> {
    let host = host()?;
    let said = host.say("run hello-world")?;
    ensure!(said.code == 0, "{said:#?}");
    ensure!(said.err.contains("Unable to find image 'hello-world:latest' locally"), "{said:#?}");
    ensure!(said.out.contains("Hello from a container!"), "{said:#?}");
    ensure!(said.out.contains("-vmctl"), "not our guest's kernel: {said:#?}");
    // It's kept, as its end was.
    let all = host.ok("ps --all")?;
    ensure!(rows(&all).len() == 1 && all.contains("Exited (0)"), "{all}");
    Ok(())
}

#[test]
fn shell_of_another_distribution_on_a_terminal() -> Result<()> {
    let host = host()?;
    host.ok("pull ubuntu")?;
    let mut terminal = Terminal::new("run-it-ubuntu")?;
    let mut child = terminal.spawn(host.command(["run", "-it", "--rm", "ubuntu", "bash"]))?;
    terminal.screen.wait_for("# ", PATIENCE)?;
    terminal.expect_raw()?;
    terminal.type_keys(b"tty; echo $((6 * 7)) is $(id -un)\r")?;
    terminal.screen.wait_for("/dev/pts/0", PATIENCE)?;
    terminal.screen.wait_for("42 is root", PATIENCE)?;
    terminal.type_keys(b"exit 3\r")?;
    ensure!(child.wait()?.code() == Some(3));
    terminal.expect_restored()?;
    let all = host.ok("ps --all --quiet")?;
    ensure!(all.is_empty(), "{all}");
    Ok(())
}

#[test]
fn web_server_lives_and_dies_by_the_commands_of_the_lecture() -> Result<()> {
    let host = host()?;
    let id = host.ok("run -p 8080:80 --hostname nginx --name nginx -d nginx")?;
    ensure!(id.trim().len() == 64, "{id}");
    let page = curl("http://localhost:8080")?;
    ensure!(page.contains("Welcome to nginx"), "{page}");

    let listed = host.ok("ps")?;
    ensure!(listed.starts_with("CONTAINER ID"), "{listed}");
    ensure!(listed.contains(&id[..12]) && listed.contains("Up "), "{listed}");
    ensure!(listed.contains("8080->80/tcp"), "{listed}");
    ensure!(host.ok("ps -q")?.trim() == &id[..12]);
    let logs = host.ok("logs nginx")?;
    ensure!(logs.contains("\"GET / HTTP/1.1\" 200"), "{logs}");
    let top = host.ok("top nginx")?;
    ensure!(top.contains("nginx: master process"), "{top}");

    let mut terminal = Terminal::new("exec-it-nginx")?;
    let mut child = terminal.spawn(host.command(["exec", "-it", "nginx", "sh"]))?;
    terminal.screen.wait_for("# ", PATIENCE)?;
    terminal.type_keys(b"cat /proc/1/comm /etc/hostname\r")?;
    terminal.screen.wait_for("nginx\r\nnginx\r\n", PATIENCE)?;
    terminal.type_keys(b"exit\r")?;
    ensure!(child.wait()?.success());

    host.ok("stop nginx")?;
    ensure!(rows(&host.ok("ps")?).is_empty());
    let all = host.ok("ps -a")?;
    ensure!(all.contains("Exited (0)"), "{all}");
    host.ok("start nginx")?;
    ensure!(curl("http://localhost:8080")?.contains("Welcome to nginx"));
    let error = host.fails("rmi nginx", 1)?;
    ensure!(error.contains("is using"), "{error}");
    host.fails("rm nginx", 1)?;
    host.ok("stop nginx")?;
    host.ok("rm nginx")?;
    let images = host.ok("images")?;
    ensure!(images.starts_with("REPOSITORY") && images.contains("nginx"), "{images}");
    host.ok("rmi nginx")?;
    ensure!(!host.ok("images")?.contains("nginx"));

    ensure!(host.ok("info")?.contains("Containers: "));
    ensure!(host.ok("version")?.contains("Version:"));
    Ok(())
}

#[test]
fn image_of_the_lecture_is_built_on_nginx() -> Result<()> {
    let host = host()?;
    let context = host.path("web");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), "FROM nginx\nADD index.html /usr/share/nginx/html\n")?;
    fs::write(context.join("index.html"), "<h1>The lecture's page</h1>\n")?;
    host.ok(&format!("build -t web {}", context.display()))?;
    host.ok("run -d --name web -p 8081:80 web")?;
    let page = curl("http://localhost:8081")?;
    ensure!(page == "<h1>The lecture's page</h1>\n", "{page}");
    host.ok("rm -f web")?;
    Ok(())
}

#[test]
fn private_registry_takes_and_gives_images_by_password() -> Result<()> {
    let host = host()?;
    let registry = Registry::private("teacher", "chalk")?;
    let name = format!("{}/lecture/busybox:1", registry.address);
    host.ok("pull busybox")?;
    host.ok(&format!("tag busybox {name}"))?;
    let error = host.fails(&format!("push {name}"), 1)?;
    ensure!(error.contains("hint: ") && error.contains("login"), "{error}");

    let login = ["login", "-u", "teacher", "--password-stdin"];
    let address = registry.address.to_string();
    let mut wrong = host.command(login.iter().chain([&address.as_str()]));
    ensure!(finish(&mut wrong, b"cheese")?.code == 1);
    let mut right = host.command(login.iter().chain([&address.as_str()]));
    let said = finish(&mut right, b"chalk")?;
    ensure!(said.code == 0 && said.out.contains("Login Succeeded"), "{said:#?}");
    host.ok(&format!("push {name}"))?;

    // A client that we didn't write reads it.
    let output = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--creds", "teacher:chalk"])
        .arg(format!("docker://{name}"))
        .output()
        .context("run skopeo")?;
    ensure!(output.status.success(), "{output:?}");

    host.ok(&format!("rmi {name}"))?;
    host.ok(&format!("pull {name}"))?;
    let said = host.ok(&format!("run --rm {name} echo pulled back"))?;
    ensure!(said == "pulled back\n", "{said}");
    Ok(())
}

#[test]
fn one_shot_job_runs_as_cron_would_start_it() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    // No terminal, no session, a short path, and hardly any variable.
    let with_variables = host.command([""; 0]);
    let mut job = Command::new("setsid");
    job.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root").env("SHELL", "/bin/sh");
    for (name, value) in with_variables.get_envs() {
        job.env(name, value.context("a variable is unset")?);
    }
    let vmctl = with_variables.get_program().to_string_lossy().into_owned();
    let line = format!("{vmctl} run --rm busybox sh -c 'echo job done; exit 4'");
    let said = finish(job.args(["--wait", "/bin/sh", "-c", &line]), b"")?;
    ensure!(said.code == 4 && said.out == "job done\n" && said.err.is_empty(), "{said:#?}");
    Ok(())
}

#[test]
fn web_server_and_database_talk_by_name() -> Result<()> {
    let host = host()?;
    host.ok("network create app")?;
    host.ok("run -d --name db --network app redis")?;
    host.ok("run -d --name web --network app nginx")?;
    let script = "for i in $(seq 60); do exec 3<>/dev/tcp/db/6379 && break; sleep 1; done; \
                  printf 'SET page 7\\r\\nGET page\\r\\nQUIT\\r\\n' >&3; cat <&3";
    let said = finish(&mut host.command(["exec", "web", "bash", "-c", script]), b"")?;
    ensure!(said.out.replace('\r', "") == "+OK\n$1\n7\n+OK\n", "{said:#?}");
    // And the other way, by the server's own client.
    let said = host.ok("exec db getent hosts web")?;
    ensure!(said.contains("web"), "{said}");
    host.fails("network rm app", 1)?;
    host.ok("rm -f web db")?;
    host.ok("network rm app")?;
    Ok(())
}
