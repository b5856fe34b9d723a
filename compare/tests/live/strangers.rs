//! Who isn't let in, and what isn't understood.

use std::io::{Read, Write};
use std::net::TcpListener;

use compare::serve::{ServeError, Server};

use crate::Live;

const PATHS: [&str; 6] =
    ["/", "/api/state", "/api/events", "/api/ways", "/favicon.ico", "/../../etc/passwd"];

#[test]
fn without_the_token_every_path_is_refused() {
    let live = Live::greeting();
    let wrong = "0".repeat(64);
    for path in PATHS {
        for headers in [
            String::new(),
            "Authorization: Bearer\r\n".to_owned(),
            format!("Authorization: Bearer {wrong}\r\n"),
            format!("Authorization: Bearer {}\r\n", &live.token[..63]),
            format!("Authorization: {}\r\n", live.token),
            format!("Cookie: token={}\r\n", live.token),
        ] {
            let answer = live.get(path, &headers);
            assert_eq!(answer.status, 403, "{path} {headers}");
            assert!(!answer.body.contains(&live.token) && !answer.head.contains(&live.token));
        }
    }
    assert_eq!(live.get(&format!("/?token={wrong}"), "").status, 403);
    let post = live.post_with("/api/race", "Content-Type: application/json\r\n", "{}");
    assert_eq!(post.status, 403);
    assert_eq!(live.state()["instances"].as_array().unwrap().len(), 0);
}

#[test]
fn token_in_an_address_opens_the_page_and_nothing_else() {
    let live = Live::greeting();
    let page = live.get(&format!("/?token={}", live.token), "");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>vmctl compare, live</title>"));
    assert!(!page.body.contains(&live.token), "the page is the same for everybody");
    assert_eq!(live.get(&format!("/api/state?token={}", live.token), "").status, 403);
}

#[test]
fn every_answer_tells_the_browser_to_be_careful() {
    let live = Live::greeting();
    let page = format!("/?token={}", live.token);
    for (path, headers) in [(page.as_str(), ""), ("/", ""), ("/api/state", &live.bearer())] {
        let answer = live.get(path, headers);
        for header in [
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cross-origin-resource-policy: same-origin",
            "content-security-policy: default-src 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(answer.head.contains(header), "{path}: {header}\n{}", answer.head);
        }
        assert!(!answer.head.contains("unsafe-inline"), "{}", answer.head);
        assert!(!answer.head.contains("access-control-allow"), "{}", answer.head);
    }
}

#[test]
fn other_pages_are_refused_even_with_the_token() {
    let live = Live::greeting();
    for header in [
        "Origin: http://evil.test",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        let headers = format!("{}Content-Type: application/json\r\n{header}\r\n", live.bearer());
        let answer = live.post_with("/api/instances", &headers, r#"{"way": "container"}"#);
        assert_eq!(answer.status, 403, "{header}");
    }
    let own = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", live.address);
    assert_eq!(live.get("/api/state", &format!("{}{own}", live.bearer())).status, 200);
}

#[test]
fn names_that_others_point_here_are_refused() {
    let live = Live::greeting();
    let port = live.address.port();
    for host in [format!("evil.test:{port}"), format!("localhost:{port}"), "127.0.0.1:1".to_owned()]
    {
        for path in ["/api/state".to_owned(), format!("/?token={}", live.token)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n", live.bearer());
            assert!(live.raw(request.as_bytes()).starts_with("HTTP/1.1 403"), "{host} {path}");
        }
    }
    let none = format!("GET /api/state HTTP/1.0\r\n{}\r\n", live.bearer());
    assert!(live.raw(none.as_bytes()).starts_with("HTTP/1.0 403"));
}

#[test]
fn bodies_that_are_wrong_are_refused_with_a_reason() {
    let live = Live::greeting();
    for (path, body, status) in [
        ("/api/instances", "", 400),
        ("/api/instances", "{", 400),
        ("/api/instances", "[]", 400),
        ("/api/instances", "[\"container\"]", 400),
        ("/api/instances", "{}", 400),
        ("/api/instances", r#"{"way": "hovercraft"}"#, 400),
        ("/api/instances", r#"{"way": "full-vm"}"#, 400),
        ("/api/instances", r#"{"way": "container", "command": ["sh"]}"#, 400),
        ("/api/instances", "\u{feff}{}", 400),
        ("/api/race", r#"{"ways": []}"#, 400),
        ("/api/race", r#"{"ways": ["container", "container"]}"#, 400),
        ("/api/race", r#"{"ways": "container"}"#, 400),
        ("/api/stop", "1", 400),
        ("/api/instances/nobody/stop", "{}", 404),
        ("/api/workloads/nothing", "{}", 404),
        ("/api/workloads/web", "{}", 404),
        ("/api/workloads/%2e%2e%2fcpu", "{}", 404),
    ] {
        let answer = live.post(path, body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        assert!(answer.body.starts_with("{\"error\":"), "{path} {body}: {}", answer.body);
    }
    let deep = "[".repeat(4000);
    assert_eq!(live.post("/api/instances", &deep).status, 400);
    assert_eq!(live.state()["instances"].as_array().unwrap().len(), 0);
}

#[test]
fn forms_and_other_content_types_are_refused() {
    let live = Live::greeting();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let headers = format!("{}Content-Type: {kind}\r\n", live.bearer());
        let answer = live.post_with("/api/instances", &headers, r#"{"way": "container"}"#);
        assert_eq!(answer.status, 415, "{kind}");
    }
    assert_eq!(live.post_with("/api/stop", &live.bearer(), "{}").status, 415);
}

#[test]
fn bodies_that_are_too_long_are_refused() {
    let live = Live::greeting();
    let body = format!(r#"{{"way": "container", "x": "{}"}}"#, "x".repeat(5000));
    assert_eq!(live.post("/api/instances", &body).status, 413);
    // One that only says so isn't waited for.
    let (host, bearer) = (live.address, live.bearer());
    let claim = format!(
        "POST /api/stop HTTP/1.0\r\nHost: {host}\r\n{bearer}Content-Type: application/json\r\n\
         Content-Length: 99999999999\r\n\r\n{{}}"
    );
    assert!(live.raw(claim.as_bytes()).starts_with("HTTP/1.0 413"));
}

#[test]
fn what_is_not_http_is_refused_and_the_server_goes_on() {
    let live = Live::greeting();
    let (host, bearer) = (live.address, live.bearer());
    let long = "x".repeat(100_000);
    for request in [
        "\r\n\r\n\r\n".to_owned(),
        "\0\u{1}\u{2}\u{ff}\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: 1\r\n".repeat(1000)),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.test\r\n{bearer}\r\n"),
        format!("GET / HTTP/1.1\r\n Host: {host}\r\n\r\n"),
        format!(
            "POST /api/stop HTTP/1.1\r\nHost: {host}\r\n{bearer}Content-Length: 1\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut stream = live.connect();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let start: String = request.chars().take(60).collect();
        assert!(
            answer.is_empty() || answer.contains(" 4") || answer.contains(" 5"),
            "{start:?}: {answer}"
        );
        assert!(!answer.starts_with("HTTP/1.1 2"), "{start:?}: {answer}");
    }
    assert_eq!(live.get("/api/state", &live.bearer()).status, 200);
}

#[test]
fn paths_lead_nowhere_but_to_what_is_there() {
    let live = Live::greeting();
    for path in [
        "/../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/api/../api/state/",
        "/live.js",
        "/api",
        "/%00",
    ] {
        let answer = live.get(path, &live.bearer());
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.body, r#"{"error":"there is no such path"}"#, "{path}");
    }
    assert_eq!(live.get("/api/race", &live.bearer()).status, 405);
    assert_eq!(live.post("/api/state", "{}").status, 405);
}

#[test]
fn taken_port_is_known_at_once() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    assert!(matches!(
        Server::bind(Some(taken), false),
        Err(ServeError::Bind { address, .. }) if address == taken
    ));
}

#[test]
fn address_that_others_reach_has_to_be_allowed() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let address = address.parse().unwrap();
        assert!(matches!(Server::bind(Some(address), false), Err(ServeError::Remote(_))));
    }
    assert!(Server::bind(Some("0.0.0.0:0".parse().unwrap()), true).is_ok());
}
