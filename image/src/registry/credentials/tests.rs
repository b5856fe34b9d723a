use std::os::unix::fs::PermissionsExt;

use super::*;

fn config(text: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.json"), text).unwrap();
    Config::read(directory.path()).unwrap()
}

fn password(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password { user: user.into(), password: password.into() })
}

fn is(found: Result<Option<Credential>, ImageError>, expected: Option<Credential>) -> bool {
    found.unwrap() == expected
}

#[test]
fn entries_are_found_however_the_registry_is_written() {
    // user:pass
    let entry = r#"{"auth":"dXNlcjpwYXNz"}"#;
    for (name, registry) in [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("host:5000", "host:5000"),
        ("https://host:5000", "host:5000"),
        ("http://host:5000/v2/", "host:5000"),
    ] {
        let config = config(&format!(r#"{{"auths":{{"{name}":{entry}}}}}"#));
        assert!(is(config.find(registry), password("user", "pass")), "{name}");
        assert!(is(config.find("host:5001"), None));
    }
}

#[test]
fn tokens_and_plain_passwords_are_read() {
    let config = config(
        r#"{"auths":{"a":{"identitytoken":"t","auth":"dXNlcjpwYXNz"},
            "b":{"username":"u","password":"p:q"},"c":{},"d":{"auth":"dXNlcjpwYTpzcw=="}}}"#,
    );
    assert!(is(config.find("a"), Some(Credential::Token("t".into()))));
    assert!(is(config.find("b"), password("u", "p:q")));
    assert!(is(config.find("c"), None));
    assert!(is(config.find("d"), password("user", "pa:ss")));
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let directory = tempfile::tempdir().unwrap();
    for text in ["{", "[]", "\"x\"", "\u{0}"] {
        fs::write(directory.path().join("config.json"), text).unwrap();
        let Err(error) = Config::read(directory.path()) else { panic!("{text} is read") };
        assert!(error.to_string().contains("config.json"), "{error}");
    }
    for auth in ["!", "dXNlcg==", "/w=="] {
        let error = config(&format!(r#"{{"auths":{{"a":{{"auth":"{auth}"}}}}}}"#)).find("a");
        assert!(error.is_err_and(|it| it.to_string().contains("USER:PASSWORD")));
    }
    assert!(is(config(r#"{"auths":[],"credHelpers":3,"credsStore":4}"#).find("a"), None));
    assert!(is(config(" ").find("a"), None));
}

#[test]
fn stored_password_is_found_and_erased_and_the_rest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker/config.json");
    let open = || Config::read(&directory.path().join("docker")).unwrap();
    open().store("host:5000", "user", "päss:1").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["psFormat"] = "x".into();
    fs::write(&path, value.to_string()).unwrap();
    open().store("docker.io", "hub", "secret").unwrap();
    assert!(is(open().find("host:5000"), password("user", "päss:1")));
    assert!(is(open().find("docker.io"), password("hub", "secret")));
    assert!(open().erase("host:5000").unwrap());
    assert!(!open().erase("host:5000").unwrap());
    assert!(is(open().find("host:5000"), None));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("psFormat") && text.contains(HUB_KEY), "{text}");
}

#[test]
fn helpers_name_cant_lead_elsewhere() {
    let error = config(r#"{"credsStore":"../../bin/x"}"#).find("a");
    assert!(error.is_err_and(|it| it.to_string().contains("slash")));
    let error = config(r#"{"credHelpers":{"a":"vmctl-test-absent"}}"#).find("a");
    assert!(error.is_err_and(|it| it.to_string().contains("docker-credential-vmctl-test-absent")));
}
