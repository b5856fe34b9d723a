use std::time::Duration;

use super::*;
use crate::mmds::http::{Parsed, parse};
use crate::mmds::{DEFAULT_STORE_LIMIT, MmdsConfig};
use serde_json::json;

fn mmds(version: MmdsVersion, imds_compat: bool) -> Mmds {
    let mmds = Mmds::new(DEFAULT_STORE_LIMIT).unwrap();
    let network_interfaces = vec!["eth0".to_owned()];
    let config = MmdsConfig { version, imds_compat, network_interfaces, ..MmdsConfig::default() };
    mmds.set_config(config).unwrap();
    mmds.put(json!({"latest": {"meta-data": {"id": "i-1", "cpus": 4}}})).unwrap();
    mmds
}

fn ask_at(mmds: &Mmds, line: &str, headers: &str, now: Instant) -> Response {
    let text = format!("{line} HTTP/1.1\r\n{headers}\r\n");
    match parse(text.as_bytes()) {
        Parsed::Request { request, .. } => mmds.answer(&request, now),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn ask(mmds: &Mmds, line: &str, headers: &str) -> (u16, String) {
    let response = ask_at(mmds, line, headers, Instant::now());
    (response.status as u16, response.body)
}

fn token(mmds: &Mmds, ttl: u32) -> String {
    let header = format!("X-metadata-token-ttl-seconds: {ttl}\r\n");
    ask(mmds, "PUT /latest/api/token", &header).1
}

#[test]
fn values_are_read_as_plain_text_or_json() {
    let mmds = mmds(MmdsVersion::V1, false);
    let json = "Accept: application/json\r\n";
    for (path, headers, status, body) in [
        ("/latest/meta-data/id", "", 200, "i-1"),
        ("//latest///meta-data/", "", 200, "cpus\nid"),
        ("/latest/meta-data", json, 200, r#"{"cpus":4,"id":"i-1"}"#),
        ("/latest/meta-data/cpus", json, 200, "4"),
        (
            "/latest/meta-data/cpus",
            "",
            501,
            "Cannot retrieve value. The value has an unsupported type.",
        ),
        ("/latest/nothing", "", 404, "Resource not found: /latest/nothing."),
        ("http://169.254.169.254", "", 400, "Invalid URI."),
    ] {
        let answer = ask(&mmds, &format!("GET {path}"), headers);
        assert_eq!(answer, (status, body.to_owned()), "{path}");
    }
    let typed =
        |headers| ask_at(&mmds, "GET /latest/meta-data/id", headers, Instant::now()).content_type;
    assert_eq!((typed(""), typed(json)), ("text/plain", "application/json"));
}

#[test]
fn compatible_service_never_answers_in_json() {
    let mmds = mmds(MmdsVersion::V1, true);
    let answer = ask_at(&mmds, "GET /latest", "Accept: application/json\r\n", Instant::now());
    assert_eq!((answer.content_type, &*answer.body), ("text/plain", "meta-data/"));
}

#[test]
fn version_2_reads_only_with_a_token_that_is_still_valid() {
    let mmds = mmds(MmdsVersion::V2, false);
    let id = "GET /latest/meta-data/id";
    let (status, reason) = ask(&mmds, id, "");
    assert_eq!((status, reason.starts_with("No MMDS token provided.")), (401, true));
    let invalid = (401, "MMDS token not valid.".to_owned());
    assert_eq!(ask(&mmds, id, "X-metadata-token: forged\r\n"), invalid);
    let token = token(&mmds, 60);
    for name in ["X-metadata-token", "X-aws-ec2-metadata-token"] {
        let header = format!("{name}: {token}\r\n");
        assert_eq!(ask(&mmds, id, &header), (200, "i-1".to_owned()));
        let late = Instant::now() + Duration::from_secs(61);
        assert_eq!(ask_at(&mmds, id, &header, late).status, Status::Unauthorized);
    }
    assert_eq!(mmds.metrics().rx_no_token.get(), 1);
    assert_eq!(mmds.metrics().rx_invalid_token.get(), 3);
}

#[test]
fn version_1_reads_with_any_token_and_counts_the_bad_ones() {
    let mmds = mmds(MmdsVersion::V1, false);
    let token = token(&mmds, 60);
    for header in [String::new(), "X-metadata-token: forged\r\n".to_owned(), {
        format!("X-metadata-token: {token}\r\n")
    }] {
        assert_eq!(ask(&mmds, "GET /latest/meta-data/id", &header).0, 200);
    }
    assert_eq!(mmds.metrics().rx_no_token.get(), 1);
    assert_eq!(mmds.metrics().rx_invalid_token.get(), 1);
}

#[test]
fn token_comes_with_its_lifetime_under_the_name_that_was_asked_with() {
    let mmds = mmds(MmdsVersion::V2, false);
    let header = "X-aws-EC2-metadata-token-ttl-seconds: 21600\r\n";
    let answer = ask_at(&mmds, "PUT //latest/api/token", header, Instant::now());
    assert_eq!(answer.status, Status::Ok);
    let lifetime = ("X-aws-EC2-metadata-token-ttl-seconds".to_owned(), "21600".to_owned());
    assert_eq!(answer.headers, [lifetime]);
}

#[test]
fn token_requests_against_the_rules_get_none() {
    let mmds = mmds(MmdsVersion::V2, false);
    let ttl = |value: &str| format!("X-metadata-token-ttl-seconds: {value}\r\n");
    let forwarded = ttl("60") + "X-Forwarded-For: 203.0.113.1\r\n";
    for (path, headers, status) in [
        ("/latest/api/token", forwarded, 400),
        ("/latest/api/token", String::new(), 400),
        ("/latest/api/token", ttl("0"), 400),
        ("/latest/api/token", ttl("21601"), 400),
        ("/latest/api/token", ttl("-1"), 400),
        ("/latest/api/token", ttl("1e3"), 400),
        ("/latest/api/token", ttl("\u{e4}"), 400),
        ("/latest/api/token", ttl("4294967296"), 400),
        ("/latest/api/token/", ttl("60"), 404),
        ("/latest/meta-data", ttl("60"), 404),
    ] {
        assert_eq!(ask(&mmds, &format!("PUT {path}"), &headers).0, status, "{path} {headers}");
    }
}

#[test]
fn other_methods_are_told_which_there_are() {
    let mmds = mmds(MmdsVersion::V1, false);
    for method in ["HEAD", "POST", "PATCH", "DELETE", "OPTIONS"] {
        let answer = ask_at(&mmds, &format!("{method} /latest"), "", Instant::now());
        assert_eq!(answer.status, Status::MethodNotAllowed, "{method}");
        assert_eq!(answer.headers, [("Allow".to_owned(), "GET, PUT".to_owned())]);
        assert_eq!(answer.body.is_empty(), method == "HEAD");
    }
}
