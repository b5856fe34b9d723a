//! Every path before the start, by `curl`: what is taken, and what is refused with which words.

use anyhow::{Result, ensure};
use api::routes;
use integration_tests::curl::curl;
use integration_tests::transcript::{
    METHODS, check, check_all_routes_are_in, parse, path_of, play,
};

use crate::workshop::{Workshop, end};

const BEFORE_THE_START: &str = include_str!("before_the_start.txt");

/// What ends the VMM.
const KILL: &str = "extKill";

const NO_SUCH_PATH: &str = r#"
GET /nowhere
  400 There is no such path
GET /drives
  400 The path knows PUT, PATCH
PUT /drives/a/b {}
  400 There is no such path
GET /ext/v1/nowhere
  404 There is no such path
GET /ext/v2/vm
  404 There is no such path
GET /%zz
  400 percent escape
"#;

const BALLOON_FIRST: &str = r#"
PUT /balloon {"amount_mib":4000,"deflate_on_oom":true}
  204
GET /machine-config
  200 "vcpu_count":1
PUT /machine-config {"vcpu_count":1,"mem_size_mib":4000}
  400 amount_mib
PUT /machine-config {"vcpu_count":1,"mem_size_mib":4096}
  204
"#;

#[test]
fn every_path_before_the_start_is_answered_as_the_transcript_says() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("before_the_start")?;
    let cases = parse(BEFORE_THE_START)?;
    check_all_routes_are_in(&cases, &[KILL])?;
    play(vmm.socket(), &cases)?;
    end(vmm)
}

/// 400 as in Firecracker, and what it should be below `/ext/`.
#[test]
fn every_other_method_of_every_path_is_refused_with_those_it_knows() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("other_methods")?;
    let mut tried = 0;
    for route in routes::all() {
        let of_path = routes::all().filter(|other| other.path == route.path);
        let known: Vec<&str> = of_path.map(|other| other.method.as_str()).collect();
        let methods = METHODS.iter().map(|method| method.as_str()).chain(["OPTIONS", "TRACE"]);
        for method in methods.filter(|method| !known.contains(method)) {
            let answer = curl(vmm.socket(), method, &path_of(route), "")?;
            let status = if route.is_ours() { 405 } else { 400 };
            check(&answer, status, &format!("The path knows {}.", known.join(", ")))?;
            tried += 1;
        }
    }
    ensure!(tried > 100, "only {tried} requests");
    play(vmm.socket(), &parse(NO_SUCH_PATH)?)?;
    end(vmm)
}

#[test]
fn balloon_may_be_larger_than_memory_that_nobody_has_configured_yet() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("balloon_first")?;
    play(vmm.socket(), &parse(BALLOON_FIRST)?)?;
    end(vmm)
}

#[test]
fn body_and_metadata_over_their_limits_are_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("body_limit")?;
    let send = |method: &str, key: &str, bytes: usize| {
        let body = format!(r#"{{"{key}":"{}"}}"#, "x".repeat(bytes));
        curl(vmm.socket(), method, "/mmds", &body)
    };
    let over = "larger than the limit of 51200 bytes";
    check(&send("PUT", "a", 60_000)?, 413, over)?;
    check(&send("PUT", "a", 50_000)?, 204, "")?;
    check(&send("PATCH", "b", 100)?, 204, "")?;
    check(&send("PATCH", "c", 2000)?, 413, "51200")?;
    end(vmm)
}
