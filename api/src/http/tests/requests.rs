//! What is answered, and how.

use std::process::Command;

use super::*;

#[test]
fn answers_are_json_and_name_the_server() {
    let fixture = Fixture::new();
    let answer = fixture.connect().ask(GET_INFO);
    assert_eq!(answer.status, 200);
    assert!(answer.has_header("content-type: application/json"), "{answer:?}");
    let server = concat!("server: vmctl/", env!("CARGO_PKG_VERSION"));
    assert!(answer.has_header(server), "{answer:?}");
    assert_eq!(serde_json::from_slice::<InstanceInfo>(&answer.body).unwrap(), info());
}

#[test]
fn success_without_data_has_neither_body_nor_type() {
    let fixture = Fixture::new();
    let request = b"PUT /mmds HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let answer = fixture.connect().ask(request);
    assert_eq!(answer.status, 204);
    assert!(!answer.headers.iter().any(|line| line.starts_with("content-")), "{answer:?}");
}

#[test]
fn refusal_of_the_service_is_a_fault_message() {
    let fixture = Fixture::new();
    let request =
        b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n\r\n{\"state\":\"Resumed\"}";
    let answer = fixture.connect().ask(request);
    assert_eq!((answer.status, answer.fault().as_str()), (400, "It isn't paused: pause it first."));
}

#[test]
fn reply_that_is_dropped_is_an_internal_error() {
    let fixture = Fixture::new();
    let body = r#"{"action_type":"InstanceStart"}"#;
    let request =
        format!("PUT /actions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = fixture.connect().ask(request.as_bytes());
    assert_eq!(answer.status, 500);
    assert!(answer.fault().contains("before it had carried out"), "{answer:?}");
    fixture.assert_serves();
}

#[test]
fn unknown_path_and_method_are_faults() {
    let fixture = Fixture::new();
    for request in ["GET /nonsense", "DELETE /", "BREW /", "OPTIONS *"] {
        let answer =
            fixture.connect().ask(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!((400..500).contains(&answer.status), "{request}: {answer:?}");
        assert!(!answer.fault().is_empty(), "{request}");
    }
}

#[test]
fn garbage_gets_a_400_and_the_end() {
    let fixture = Fixture::new();
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"hello\r\n\r\n", &[0xff; 64]] {
        let mut client = fixture.connect();
        client.send(garbage);
        assert_eq!(client.answer().status, 400, "{garbage:?}");
        assert_eq!(client.rest(), b"");
    }
    fixture.assert_serves();
}

#[test]
fn header_without_end_is_refused_before_it_fills_memory() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.send(b"GET / HTTP/1.1\r\nX: ");
    client.send(&[b'x'; 20 << 10]);
    assert_eq!(client.answer().status, 431);
    client.rest();
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let version = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(&[GET_INFO, version, GET_INFO].concat());
    assert!(client.answer().body.starts_with(b"{\"app_name\""));
    assert!(client.answer().body.starts_with(b"{\"firecracker_version\""));
    assert!(client.answer().body.starts_with(b"{\"app_name\""));
}

#[test]
fn connection_close_is_honoured() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let answer = client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.has_header("connection: close"), "{answer:?}");
    assert_eq!(client.rest(), b"");
    let mut client = fixture.connect();
    assert_eq!(client.ask(b"GET / HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(client.rest(), b"");
}

#[test]
fn body_over_the_limit_is_refused_before_it_is_sent() {
    let fixture = Fixture::new();
    for (path, limit) in [("/machine-config", 51_200), ("/mmds", 51_200)] {
        let mut client = fixture.connect();
        let length = limit + 1;
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        let answer = client.ask(head.as_bytes());
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(answer.fault().contains("51200 bytes"), "{answer:?}");
        assert!(answer.has_header("connection: close"), "{answer:?}");
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn metadata_has_a_limit_of_its_own_and_the_limit_itself_fits() {
    let limits = Limits { max_body_bytes: 64, max_mmds_body_bytes: 100_000, ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let put = |path: &str, length: usize| {
        let body = format!("{{\"k\":\"{}\"}}", "x".repeat(length - 8));
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        fixture.connect().ask(&[head.as_bytes(), body.as_bytes()].concat()).status
    };
    assert_eq!(put("/mmds", 100_000), 204);
    assert_eq!(put("/mmds", 100_001), 413);
    assert_eq!(put("/boot-source", 64), 400);
    assert_eq!(put("/boot-source", 65), 413);
}

#[test]
fn chunked_body_is_refused_as_soon_as_it_passes_the_limit() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.send(b"PUT /mmds HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [&b"8000\r\n"[..], &[b' '; 0x8000], b"\r\n"].concat();
    client.send(&chunk);
    client.send(&chunk);
    // No last chunk: the server doesn't wait for it.
    assert_eq!(client.answer().status, 413);
    client.rest();
}

#[test]
fn chunked_body_is_put_together() {
    let fixture = Fixture::new();
    let request = b"PUT /mmds HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
        1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    assert_eq!(fixture.connect().ask(request).status, 204);
}

#[test]
fn client_that_sends_all_of_a_refused_body_still_sees_why() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let length = 700 << 10;
    let head = format!("PUT /mmds HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    client.send(head.as_bytes());
    client.send(&vec![b' '; length]);
    assert_eq!(client.answer().status, 413);
}

#[test]
fn expectation_is_met_for_a_body_that_fits_and_for_no_other() {
    let fixture = Fixture::new();
    let head = |length: usize| {
        format!(
            "PUT /mmds HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut client = fixture.connect();
    assert_eq!(client.ask(head(2).as_bytes()).status, 100);
    assert_eq!(client.ask(b"{}").status, 204);
    let answer = fixture.connect().ask(head(60_000).as_bytes());
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[test]
fn curl_is_answered_also_when_it_asks_before_it_sends() {
    let limits = Limits { max_mmds_body_bytes: 4 << 20, ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let body = fixture.directory.path().join("body.json");
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--write-out", " %{http_code}"])
            .arg("--unix-socket")
            .arg(fixture.path())
            .args(arguments)
            .output()
            .expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&["http://x/version"]), "{\"firecracker_version\":\"1.2.3\"} 200");
    // From a mebibyte on, curl sends `Expect: 100-continue` by itself.
    let data = format!("@{}", body.display());
    let upload = ["-X", "PUT", "--data-binary", &data, "http://x/mmds"];
    std::fs::write(&body, format!("{{\"k\":\"{}\"}}", "x".repeat(2 << 20))).unwrap();
    assert_eq!(curl(&upload), " 204");
    std::fs::write(&body, " ".repeat(5 << 20)).unwrap();
    assert!(curl(&upload).ends_with("limit of 4194304 bytes.\"} 413"));
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    assert!(curl(&[&chunked[..], &upload].concat()).ends_with(" 413"));
}

#[test]
fn openapi_document_is_served() {
    let fixture = Fixture::new();
    let answer = fixture.connect().ask(b"GET /ext/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.status, 200);
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{document}");
}

#[test]
fn deprecated_key_is_announced_as_such() {
    let fixture = Fixture::new();
    let put = |body: &str| {
        let length = body.len();
        let request =
            format!("PUT /vsock HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        fixture.connect().ask(request.as_bytes())
    };
    let answer = put(r#"{"guest_cid": 3, "uds_path": "v.sock", "vsock_id": "1"}"#);
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.has_header("deprecation: true"), "{answer:?}");
    let answer = put(r#"{"guest_cid": 3, "uds_path": "v.sock"}"#);
    assert!(!answer.has_header("deprecation: true"), "{answer:?}");
}
