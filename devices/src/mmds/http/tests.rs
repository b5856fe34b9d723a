use super::*;

fn request(text: &str) -> Request {
    match parse(text.as_bytes()) {
        Parsed::Request { request, head_size, .. } => {
            assert_eq!(head_size, text.len());
            *request
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refusal(bytes: &[u8]) -> Status {
    match parse(bytes) {
        Parsed::Invalid(status) => status,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn plain_request_says_what_it_wants() {
    let expected = Request {
        method: Method::Get,
        path: "/latest/meta-data".to_owned(),
        wants_json: false,
        token: None,
        ttl: None,
        forwarded_for: None,
        keep_alive: true,
        minor_version: 1,
    };
    assert_eq!(request("GET /latest/meta-data HTTP/1.1\r\n\r\n"), expected);
    assert_eq!(request("GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\n\r\n"), expected);
    assert_eq!(request("GET HTTP://x/latest/meta-data HTTP/1.1\nHost: x\n\n"), expected);
}

#[test]
fn methods_are_case_sensitive() {
    for (method, expected) in [
        ("GET", Method::Get),
        ("PUT", Method::Put),
        ("HEAD", Method::Head),
        ("POST", Method::Other),
        ("get", Method::Other),
    ] {
        assert_eq!(request(&format!("{method} / HTTP/1.1\r\n\r\n")).method, expected);
    }
}

#[test]
fn targets_without_a_path_have_none() {
    for target in ["*", "http://", "http://host", "ftp://host/x", "latest", "h", "https://h/x"] {
        assert_eq!(request(&format!("GET {target} HTTP/1.1\r\n\r\n")).path, "", "{target}");
    }
}

#[test]
fn headers_are_found_under_both_names_in_any_case() {
    for prefix in ["X-metadata-token", "x-aws-ec2-metadata-TOKEN"] {
        let text = format!("PUT / HTTP/1.1\r\n{prefix}:  abc \r\n{prefix}-ttl-seconds: 60\r\n\r\n");
        let request = request(&text);
        assert_eq!(request.token.as_deref(), Some(&b"abc"[..]));
        let name = format!("{prefix}-ttl-seconds");
        assert_eq!(request.ttl, Some(Header { name, value: b"60".to_vec() }));
    }
    let forwarded = request("PUT / HTTP/1.1\r\nx-Forwarded-for: 10.0.0.1\r\n\r\n").forwarded_for;
    assert_eq!(forwarded.as_deref(), Some("x-Forwarded-for"));
}

#[test]
fn accept_chooses_json_only_when_it_comes_first() {
    for (accept, json) in [
        ("application/json", true),
        ("Application/JSON; q=0.5", true),
        ("text/html, application/json", true),
        ("text/html\r\nAccept: application/json", true),
        ("*/*", false),
        ("text/plain, application/json", false),
        ("text/html", false),
        ("", false),
        (",;,", false),
    ] {
        let text = format!("GET / HTTP/1.1\r\nAccept: {accept}\r\n\r\n");
        assert_eq!(request(&text).wants_json, json, "{accept}");
    }
}

#[test]
fn connection_stays_as_its_version_and_its_options_say() {
    for (version, options, stays) in [
        (1, "", true),
        (1, "Connection: close\r\n", false),
        (1, "Connection: x, Close\r\n", false),
        (0, "", false),
        (0, "Connection: Keep-Alive\r\n", true),
        (0, "Connection: keep-alive, close\r\n", false),
    ] {
        let request = request(&format!("GET / HTTP/1.{version}\r\n{options}\r\n"));
        assert_eq!((request.keep_alive, request.minor_version), (stays, version), "{options}");
    }
}

#[test]
fn every_beginning_of_a_request_waits_for_the_rest() {
    let text = b"PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(parse(&text[..end]), Parsed::Incomplete, "{end}");
    }
    assert!(matches!(parse(text), Parsed::Request { .. }));
}

#[test]
fn pipelined_request_is_left_where_it_is() {
    let first = "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    let both = format!("{first}abcGET / HTTP/1.1\r\n\r\n");
    let Parsed::Request { head_size, body_size, .. } = parse(both.as_bytes()) else { panic!() };
    assert_eq!((head_size, body_size), (first.len(), 3));
}

#[test]
fn garbage_is_refused() {
    for bytes in [
        &b"\0"[..],
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nName : value\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x01\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(refusal(bytes), Status::BadRequest);
    }
}

#[test]
fn bodies_are_measured_or_refused() {
    for (headers, status) in [
        ("Content-Length: 4097", Status::ContentTooLarge),
        ("Content-Length: 99999999999999999999999", Status::ContentTooLarge),
        ("Content-Length: -1", Status::BadRequest),
        ("Content-Length: +1", Status::BadRequest),
        ("Content-Length: 0x10", Status::BadRequest),
        ("Content-Length:", Status::BadRequest),
        ("Content-Length: 1, 2", Status::BadRequest),
        ("Content-Length: 1\r\nContent-Length: 2", Status::BadRequest),
        ("Transfer-Encoding: chunked", Status::NotImplemented),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", Status::NotImplemented),
    ] {
        let text = format!("PUT / HTTP/1.1\r\n{headers}\r\n\r\n");
        assert_eq!(refusal(text.as_bytes()), status, "{headers}");
    }
    for (headers, size) in [("Content-Length: 4096", 4096), ("Content-Length: 7, 7", 7)] {
        let text = format!("PUT / HTTP/1.1\r\n{headers}\r\n\r\n");
        let Parsed::Request { body_size, .. } = parse(text.as_bytes()) else { panic!() };
        assert_eq!(body_size, size);
    }
}

#[test]
fn heads_are_bounded_in_bytes_and_headers() {
    let fitting = |padding: usize| {
        let text = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(padding));
        (text.len(), text)
    };
    let (length, _) = fitting(0);
    let (_, largest) = fitting(MAX_HEAD_SIZE - length);
    assert_eq!(request(&largest).path, "/");
    let (_, larger) = fitting(MAX_HEAD_SIZE - length + 1);
    assert_eq!(refusal(larger.as_bytes()), Status::HeadTooLarge);
    assert_eq!(refusal(&[b'a'; MAX_HEAD_SIZE]), Status::HeadTooLarge);
    let headers = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert_eq!(request(&headers(MAX_HEADERS)).path, "/");
    assert_eq!(refusal(headers(MAX_HEADERS + 1).as_bytes()), Status::HeadTooLarge);
}

#[test]
fn answer_is_framed_by_its_length() {
    let mut response = Response::text(Status::NotFound, "näh");
    response.headers.push(("Allow".to_owned(), "GET".to_owned()));
    assert_eq!(
        String::from_utf8(response.encode(0, false)).unwrap(),
        "HTTP/1.0 404 Not Found\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 4\r\nAllow: GET\r\n\r\nnäh"
    );
}
