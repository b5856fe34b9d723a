use super::{Platform, Reference};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn names_get_dockers_defaults() {
    for (text, whole, familiar) in [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "127.0.0.1:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("[::1]/app", "[::1]/app:latest", "[::1]/app:latest"),
        (
            "quay.io/a__b/c-.d".trim_end_matches("-.d"),
            "quay.io/a__b/c:latest",
            "quay.io/a__b/c:latest",
        ),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("a--b.c_d", "docker.io/library/a--b.c_d:latest", "a--b.c_d:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
    ] {
        let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((reference.to_string(), reference.familiar()), (whole.into(), familiar.into()));
        assert_eq!(familiar.parse(), Ok(reference), "{familiar} is another image");
    }
}

#[test]
fn digest_takes_the_default_tags_place() {
    let reference: Reference = format!("nginx@{DIGEST}").parse().unwrap();
    assert_eq!((reference.tag(), reference.digest()), (None, Some(DIGEST)));
    assert_eq!(reference.familiar(), format!("nginx@{DIGEST}"));
    let both: Reference = format!("localhost:5000/app:1@{DIGEST}").parse().unwrap();
    assert_eq!((both.tag(), both.digest()), (Some("1"), Some(DIGEST)));
    assert_eq!(both.to_string(), format!("localhost:5000/app:1@{DIGEST}"));
}

#[test]
fn what_is_no_name_is_refused_with_a_reason() {
    let long = format!("a/{}", "b".repeat(254));
    for (text, reason) in [
        ("", "no name"),
        (":latest", "no name"),
        ("Nginx", "lowercase"),
        ("user/App:1", "lowercase"),
        ("docker.io/Nginx", "lowercase"),
        ("nginx:", "tag"),
        ("nginx:.a", "tag"),
        ("nginx:a b", "tag"),
        ("nginx@sha256:12", "digest"),
        ("nginx@", "digest"),
        ("nginx@md5:0123456789abcdef0123456789abcdef", "digest"),
        ("host:99999/app", "port"),
        ("host:12x/app", "port"),
        ("host:/app", "port"),
        ("-host.x/app", "host"),
        ("a..b/app", "host"),
        ("[::g]/app", "IPv6"),
        ("localhost/", "repository"),
        ("/nginx", "repository"),
        ("a//b", "repository"),
        ("a/../b", "repository"),
        ("-a", "repository"),
        ("a.", "repository"),
        ("a___b", "repository"),
        ("a._b", "repository"),
        ("ä", "repository"),
        ("a b", "repository"),
        ("a\0", "repository"),
        (&DIGEST[7..], "identifier"),
        (&long, "255"),
        (&format!("nginx:{}", "a".repeat(129)), "128"),
    ] {
        let error = text.parse::<Reference>().expect_err(text);
        assert!(error.to_string().contains(reason), "{text}: {error}");
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn platforms_have_gos_names_whatever_they_are_called() {
    for (text, name) in [
        ("linux/amd64", "linux/amd64"),
        ("x86_64", "linux/amd64"),
        ("Linux/AArch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("windows/amd64", "windows/amd64"),
    ] {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), name);
    }
    assert_eq!("linux".parse(), Ok(Platform::host()));
}

#[test]
fn what_is_no_platform_is_refused() {
    for text in ["", "/", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/am\nd64"] {
        let error = text.parse::<Platform>().expect_err(text);
        assert!(error.contains("is no platform"), "{error}");
    }
}
