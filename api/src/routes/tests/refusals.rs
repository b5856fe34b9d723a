//! What's malformed is refused with the status that it has in Firecracker, and never a panic.

use super::*;

fn refusal(method: &str, path: &str, body: &[u8]) -> ApiError {
    match parse(method, path, body) {
        Err(error) => {
            assert!(!error.message.is_empty());
            error
        }
        Ok(request) => {
            panic!("{method} {path} {}: {request:?}", String::from_utf8_lossy(body))
        }
    }
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    for (method, path, status) in [
        ("GET", "/unknown", 400),
        ("GET", "/version/more", 400),
        ("GET", "/version//", 400),
        ("GET", "/Version", 400),
        ("GET", "/vm", 400),
        ("GET", "/vm/", 400),
        ("GET", "/vm/config/x", 400),
        ("GET", "/balloon/hinting", 400),
        ("GET", "/balloon/hinting/", 400),
        ("GET", "/balloon/unknown", 400),
        ("GET", "/drives/rootfs", 400),
        ("GET", "/version?x=1", 400),
        ("GET", "/%zz", 400),
        ("GET", "/%", 400),
        ("GET", "/%4", 400),
        ("GET", "/%ff", 400),
        ("GET", "/%00", 400),
        ("GET", "/version%2F", 400),
        ("get", "/", 400),
        ("HEAD", "/", 400),
        ("OPTIONS", "/", 400),
        ("TRACE", "/", 400),
        ("", "/", 400),
        ("POST", "/actions", 400),
        ("DELETE", "/drives/rootfs", 400),
        ("PUT", "/snapshot", 400),
        ("PUT", "/snapshot/unknown", 400),
        ("PUT", "/mmds/unknown", 400),
        ("PUT", "/vm/config", 400),
        ("PATCH", "/balloon/unknown", 400),
        ("PATCH", "/vsock", 400),
        ("PATCH", "/pmem/a/b", 400),
        ("GET", "/ext", 404),
        ("GET", "/ext/", 404),
        ("GET", "/ext/v1", 404),
        ("GET", "/ext/v2/vm", 404),
        ("GET", "/ext/v1/unknown", 404),
        ("GET", "/extra", 400),
        ("PUT", "/ext/v1/vm", 405),
        ("GET", "/ext/v1/kill", 405),
        ("GET", "/ext/v1/drives/a", 405),
        ("PATCH", "/ext/v1/events", 405),
    ] {
        let error = refusal(method, path, b"{}");
        assert_eq!(error.status.code(), status, "{method} {path}: {error}");
    }
}

#[test]
fn refusal_of_a_method_names_those_that_the_path_knows() {
    let error = refusal("DELETE", "/machine-config", b"");
    assert!(error.message.contains("GET, PUT, PATCH"), "{error}");
    let error = refusal("GET", "/nowhere", b"");
    assert!(error.message.contains("GET /nowhere") && error.message.contains("no such path"));
}

#[test]
fn identifiers_are_held_to_their_form() {
    let long = "x".repeat(65);
    for id in [
        "",
        "/",
        "a b",
        "a%20b",
        "%2e%2e",
        "..",
        "a-b",
        "a.b",
        "%C3%BC",
        "ü",
        "a%2Fb",
        "%00",
        "a?b",
        "a%0a",
        "{drive_id}",
        "*",
        "~",
        long.as_str(),
    ] {
        for path in ["/drives/", "/network-interfaces/", "/pmem/"] {
            for method in ["PUT", "PATCH"] {
                let body = json!({ "drive_id": id, "iface_id": id, "id": id }).to_string();
                let error = refusal(method, &format!("{path}{id}"), body.as_bytes());
                assert_eq!(error.status, Status::BadRequest, "{method} {path}{id}");
                assert!(error.message.starts_with("The ID "), "{method} {path}{id}: {error}");
            }
        }
        for path in ["/ext/v1/drives/", "/ext/v1/network-interfaces/", "/ext/v1/pmem/"] {
            if id != "a-b" {
                refusal("DELETE", &format!("{path}{id}"), b"");
            }
        }
    }
    for path in ["/drives", "/drives/"] {
        let error = refusal("PUT", path, br#"{"drive_id":"","is_root_device":false}"#);
        assert_eq!(error.message, "The ID cannot be empty.");
    }
}

#[test]
fn escaped_identifier_is_the_plain_one() {
    let request = parse("PATCH", "/drives/r%6Fot_1", br#"{"drive_id":"root_1"}"#).unwrap();
    assert!(matches!(request, Request::Action(VmmAction::UpdateDrive(_))));
}

#[test]
fn identifier_of_path_and_body_must_be_one() {
    for route in all().filter(|route| !route.example.is_empty() && route.parameter().is_some()) {
        let (start, _) = route.path.split_once('{').unwrap();
        let method = route.method.as_str();
        let error = refusal(method, &format!("{start}another"), route.example.as_bytes());
        assert!(error.message.contains("does not match"), "{error}");
    }
}

#[test]
fn methods_without_a_body_refuse_one_and_those_with_one_need_it() {
    for route in all() {
        let path = concrete_path(route);
        let method = route.method.as_str();
        match route.body {
            Body::None => {
                let error = refusal(method, &path, b"{}");
                assert!(error.message.contains("cannot have a body"), "{path}: {error}");
            }
            Body::Required(_) => {
                let error = refusal(method, &path, b"");
                assert!(error.message.starts_with(&format!("Empty {method} request")), "{error}");
            }
            Body::Ignored | Body::Optional(_) => {
                parse(method, &path, b"").unwrap();
            }
        }
    }
}

fn typed_bodies() -> impl Iterator<Item = (&'static Route, String, Map<String, Value>)> {
    all().filter(|route| matches!(route.body, Body::Required(_) | Body::Optional(_))).map(|route| {
        let Value::Object(body) = serde_json::from_str(route.example).unwrap() else { panic!() };
        (route, concrete_path(route), body)
    })
}

#[test]
fn bodies_that_are_no_object_of_json_are_refused() {
    for (route, path, _) in typed_bodies() {
        for body in [
            &b" "[..],
            b"null",
            b"true",
            b"0",
            b"\"text\"",
            b"[]",
            b"[{}]",
            b"{",
            b"}",
            b"{}{}",
            b"{,}",
            b"{\"a\"}",
            b"{a:1}",
            b"{'a':1}",
            b"{\"a\":1,}",
            b"\xff",
            b"\xef\xbb\xbf{}",
            b"{\"\xff\":1}",
            b"not json",
            b"<a/>",
            b"NaN",
        ] {
            let error = refusal(route.method.as_str(), &path, body);
            assert_eq!(error.status, Status::BadRequest, "{path}");
        }
        let deep = "[".repeat(100_000);
        refusal(route.method.as_str(), &path, deep.as_bytes());
        let deep = "{\"a\":".repeat(100_000);
        refusal(route.method.as_str(), &path, deep.as_bytes());
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (route, path, body) in typed_bodies().filter(|(_, path, _)| path != "/mmds") {
        let mut body = body.clone();
        body.insert("bogus".to_owned(), json!(1));
        let text = Value::Object(body).to_string();
        let error = refusal(route.method.as_str(), &path, text.as_bytes());
        assert!(error.message.contains("unknown field `bogus`"), "{path}: {error}");
    }
}

#[test]
fn keys_given_twice_are_refused_by_name() {
    for (route, path, body) in typed_bodies().filter(|(_, path, _)| path != "/mmds") {
        for (key, value) in &body {
            let text = format!("{{\"{key}\":{value},\"{key}\":{value}}}");
            let error = refusal(route.method.as_str(), &path, text.as_bytes());
            let expected = format!("duplicate field `{key}`");
            assert!(error.message.contains(&expected), "{path}: {error}");
        }
    }
}

#[test]
fn values_of_another_type_are_refused() {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    let others =
        [json!(true), json!(1), json!(-1), json!(1.5), json!("bogus\n"), json!([1]), json!([])];
    let mut refused = 0;
    for (route, path, body) in typed_bodies().filter(|(_, path, _)| path != "/mmds") {
        for (key, value) in &body {
            for other in &others {
                let is_number = kind(value) == 2 && *other == json!(1);
                let is_same = kind(value) == kind(other);
                if is_number || (is_same && kind(value) != 2) {
                    continue;
                }
                let mut body = body.clone();
                body.insert(key.clone(), other.clone());
                let text = Value::Object(body).to_string();
                // A struct may be written as the list of its values, as in Firecracker.
                if kind(value) == 5 && kind(other) == 4 {
                    let _ = parse(route.method.as_str(), &path, text.as_bytes());
                    continue;
                }
                let error = refusal(route.method.as_str(), &path, text.as_bytes());
                assert_eq!(error.status, Status::BadRequest, "{path} {text}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 300, "only {refused} cases");
}

#[test]
fn socket_of_page_faults_has_a_path_of_a_socket() {
    let body = |kind: &str, len: usize| {
        let path = "x".repeat(len);
        json!({ "snapshot_path": "s",
                "mem_backend": { "backend_type": kind, "backend_path": path } })
    };
    action("PUT", "/snapshot/load", &body("Uffd", 107));
    action("PUT", "/snapshot/load", &body("File", 108));
    let error = refusal("PUT", "/snapshot/load", body("Uffd", 108).to_string().as_bytes());
    assert!(error.message.contains("108 bytes long"), "{error}");
}

#[test]
fn single_bodies_are_refused_for_their_own_reasons() {
    for (method, path, body, expected) in [
        ("PUT", "/actions", r#"{"action_type":"Reboot"}"#, "unknown variant `Reboot`"),
        ("PUT", "/actions", r#"{"action_type":"InstanceStart","payload":"x"}"#, "`payload`"),
        ("PUT", "/actions", "{}", "missing field `action_type`"),
        ("PATCH", "/vm", r#"{"state":"Running"}"#, "unknown variant `Running`"),
        ("PATCH", "/vm", r#"{"state":"paused"}"#, "unknown variant `paused`"),
        ("PATCH", "/machine-config", "{}", "Empty PATCH request"),
        ("PATCH", "/machine-config", r#"{"smt":null}"#, "Empty PATCH request"),
        ("PUT", "/machine-config", r#"{"vcpu_count":1}"#, "missing field `mem_size_mib`"),
        ("PUT", "/machine-config", r#"{"mem_size_mib":1}"#, "missing field `vcpu_count`"),
        (
            "PUT",
            "/machine-config",
            r#"{"mem_size_mib":1,"vcpu_count":null}"#,
            "missing field `vcpu_count`",
        ),
        ("PUT", "/machine-config", r#"{"mem_size_mib":1,"vcpu_count":-1}"#, "`-1`"),
        ("PUT", "/machine-config", r#"{"mem_size_mib":1,"vcpu_count":1e3}"#, "floating point"),
        ("PUT", "/machine-config", r#"{"mem_size_mib":18446744073709551616}"#, "floating point"),
        ("PUT", "/machine-config", r#"{"huge_pages":"7M"}"#, "unknown variant `7M`"),
        ("PUT", "/boot-source", "{}", "missing field `kernel_image_path`"),
        ("PUT", "/boot-source", r#"{"boot_args":"x"}"#, "missing field `kernel_image_path`"),
        ("PUT", "/drives/a", r#"{"drive_id":"a"}"#, "missing field `is_root_device`"),
        ("PUT", "/drives/a", r#"{"is_root_device":true}"#, "missing field `drive_id`"),
        ("PATCH", "/drives/a", r#"{"path_on_host":"x"}"#, "missing field `drive_id`"),
        (
            "PATCH",
            "/drives/a",
            r#"{"drive_id":"a","is_read_only":true}"#,
            "unknown field `is_read_only`",
        ),
        (
            "PATCH",
            "/drives/a",
            r#"{"drive_id":"a","rate_limiter":{"ops":{"size":1}}}"#,
            "missing field `refill_time`",
        ),
        ("PUT", "/network-interfaces/a", r#"{"iface_id":"a"}"#, "missing field `host_dev_name`"),
        (
            "PATCH",
            "/network-interfaces/a",
            r#"{"iface_id":"a","guest_mac":"x"}"#,
            "unknown field `guest_mac`",
        ),
        ("PUT", "/balloon", r#"{"amount_mib":1}"#, "missing field `deflate_on_oom`"),
        ("PUT", "/balloon", r#"{"deflate_on_oom":true}"#, "missing field `amount_mib`"),
        ("PATCH", "/balloon", r#"{"stats_polling_interval_s":1}"#, "unknown field"),
        ("PATCH", "/balloon/statistics", r#"{"amount_mib":1}"#, "unknown field"),
        ("PATCH", "/balloon/statistics", "{}", "missing field `stats_polling_interval_s`"),
        (
            "PATCH",
            "/balloon/hinting/start",
            r#"{"acknowledge_on_stop":"no"}"#,
            "expected a boolean",
        ),
        ("PUT", "/vsock", r#"{"uds_path":"v"}"#, "missing field `guest_cid`"),
        ("PUT", "/vsock", r#"{"guest_cid":3}"#, "missing field `uds_path`"),
        ("PUT", "/mmds", "[]", "expected a map"),
        ("PATCH", "/mmds", "\"x\"", "expected a map"),
        ("PUT", "/mmds/config", r#"{"network_interfaces":"eth0"}"#, "expected a sequence"),
        ("PUT", "/snapshot/create", r#"{"snapshot_path":"s"}"#, "missing field `mem_file_path`"),
        (
            "PUT",
            "/snapshot/create",
            r#"{"snapshot_path":"s","mem_file_path":"m","snapshot_type":"Partial"}"#,
            "unknown variant `Partial`",
        ),
        ("PUT", "/snapshot/load", r#"{"snapshot_path":"s"}"#, "either `mem_backend` or"),
        ("PUT", "/snapshot/load", r#"{"mem_file_path":"m"}"#, "missing field `snapshot_path`"),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m",
            "mem_backend":{"backend_type":"File","backend_path":"m"}}"#,
            "too many fields",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_backend":{"backend_path":"m"}}"#,
            "missing field `backend_type`",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m",
            "new_identity":{"mac_addresses":[{"iface_id":"e","guest_mac":"01:00:00:00:00:00"}]}}"#,
            "multicast",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","drive_overrides":[{"drive_id":"a"}]}"#,
            "missing field `path_on_host`",
        ),
        (
            "PUT",
            "/snapshot/create",
            r#"{"snapshot_path":"s","mem_file_path":""}"#,
            "mem_file_path: is empty",
        ),
        (
            "PUT",
            "/snapshot/create",
            r#"{"snapshot_path":"s","mem_file_path":"s"}"#,
            "mem_file_path: \"s\" is named twice",
        ),
        (
            "PUT",
            "/snapshot/create",
            r#"{"snapshot_path":"a\u0000b","mem_file_path":"m"}"#,
            "snapshot_path: has a NUL",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"","mem_file_path":"m"}"#,
            "snapshot_path: is empty",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":""}"#,
            "mem_backend.backend_path: is empty",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","vsock_override":{"uds_path":""}}"#,
            "vsock_override.uds_path: is empty",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","new_identity":{"guest_cid":2}}"#,
            "new_identity.guest_cid: 2 is not from 3",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","new_identity":{"guest_cid":4294967295}}"#,
            "new_identity.guest_cid: 4294967295",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","drive_overrides":[
            {"drive_id":"a","path_on_host":"x"},{"drive_id":"a","path_on_host":"y"}]}"#,
            "drive_overrides: \"a\" is there twice",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","network_overrides":[
            {"iface_id":"","host_dev_name":"x"}]}"#,
            "network_overrides: an identifier is empty",
        ),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_file_path":"m","record_working_set_path":""}"#,
            "record_working_set_path: is empty",
        ),
        (
            "POST",
            "/ext/v1/fork",
            r#"{"snapshot_path":"s","mem_file_path":"m","drives":[
            {"drive_id":"a","path_on_host":"m"}]}"#,
            "drives[0].path_on_host: \"m\" is named twice",
        ),
        (
            "POST",
            "/ext/v1/fork",
            r#"{"snapshot_path":"s","mem_file_path":"m","drives":[
            {"drive_id":"a","path_on_host":"x"},{"drive_id":"a","path_on_host":"y"}]}"#,
            "drives: \"a\" is there twice",
        ),
        ("PATCH", "/drives/a", r#"{"drive_id":"a","path_on_host":""}"#, "path_on_host: is empty"),
        ("POST", "/ext/v1/fork", r#"{"snapshot_path":"s"}"#, "missing field `mem_file_path`"),
        ("POST", "/ext/v1/shutdown", r#"{"timeout_ms":-1}"#, "`-1`"),
        ("POST", "/ext/v1/shutdown", r#"{"timeout_ms":86400001}"#, "is more than 86400000"),
    ] {
        let error = refusal(method, path, body.as_bytes());
        assert_eq!(error.status, Status::BadRequest);
        assert!(error.message.contains(expected), "{path} {body}: {:?}", error.message);
    }
}

/// A small generator of numbers that look random (xorshift), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.next(all.len())].clone()
    }

    /// A value of any type, with keys and words that bodies have.
    fn value(&mut self, words: &[String], depth: usize) -> Value {
        match self.next(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.next(2) == 0),
            2 => json!(self.next(5)),
            3 => self.pick(&[json!(u64::MAX), json!(i64::MIN), json!(-0.0), json!(1e300)]),
            4 | 5 => Value::String(self.pick(words)),
            6 => (0..self.next(3)).map(|_| self.value(words, depth - 1)).collect(),
            _ => {
                let keys = (0..self.next(6)).map(|_| self.pick(words)).collect::<Vec<_>>();
                let pairs = keys.into_iter().map(|key| (key, self.value(words, depth - 1)));
                Value::Object(pairs.collect())
            }
        }
    }

    /// Changes one place of a value.
    fn mutate(&mut self, value: &mut Value, words: &[String]) {
        match value {
            Value::Object(object) if !object.is_empty() && self.next(4) > 0 => {
                let keys: Vec<_> = object.keys().cloned().collect();
                let key = self.pick(&keys);
                self.mutate(&mut object[&key], words);
            }
            Value::Array(values) if !values.is_empty() && self.next(4) > 0 => {
                let index = self.next(values.len());
                self.mutate(&mut values[index], words);
            }
            _ => *value = self.value(words, 3),
        }
    }
}

fn words(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| words(value, into)),
        Value::Object(object) => {
            into.extend(object.keys().cloned());
            object.values().for_each(|value| words(value, into));
        }
        _ => {}
    }
}

#[test]
fn random_bodies_are_read_or_refused() {
    let mut vocabulary = vec![String::new(), "\0".to_owned(), "0x7fffffff".to_owned()];
    typed_bodies().for_each(|(_, _, body)| words(&Value::Object(body), &mut vocabulary));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut read, mut refused) = (0, 0);
    for (route, path, body) in typed_bodies() {
        for _ in 0..400 {
            let mut body = Value::Object(body.clone());
            for _ in 0..=numbers.next(3) {
                numbers.mutate(&mut body, &vocabulary);
            }
            let mut text = body.to_string().into_bytes();
            // Now and then a byte is another one.
            if numbers.next(4) == 0 {
                let index = numbers.next(text.len());
                text[index] = u8::try_from(numbers.next(256)).unwrap();
            }
            match parse(route.method.as_str(), &path, &text) {
                Ok(Request::Action(action)) => {
                    read += 1;
                    assert!(!action.name().is_empty());
                }
                Ok(other) => panic!("{path} is {other:?}"),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.status, Status::BadRequest, "{path}: {error}");
                    assert!(!error.message.is_empty());
                }
            }
        }
    }
    assert!(read > 100 && refused > 1000, "read {read}, refused {refused}");
}

#[test]
fn random_paths_are_found_or_refused() {
    let pieces: Vec<String> = all()
        .flat_map(|route| route.path.split('/'))
        .chain(["", "%", "%2F", "%ff", ".", "..", "?", "#", "\u{0}", "ü", "a b"])
        .map(str::to_owned)
        .collect();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for _ in 0..20_000 {
        let path: Vec<_> = (0..=numbers.next(4)).map(|_| numbers.pick(&pieces)).collect();
        let path = format!("/{}", path.join("/"));
        let method = numbers.pick(&["GET", "PUT", "PATCH", "POST", "DELETE", "HEAD", ""]);
        let body = numbers.pick(&[&b""[..], b"{}"]);
        if let Err(error) = parse(method, &path, body) {
            assert!(matches!(error.status.code(), 400 | 404 | 405), "{method} {path}: {error}");
        }
    }
}
