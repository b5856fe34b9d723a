use super::*;

fn index(platforms: &[(&str, &str, Option<&str>)]) -> Index {
    let entry = |(at, (os, architecture, variant)): (usize, &(&str, &str, Option<&str>))| {
        let mut it =
            Descriptor::new(media::OCI_MANIFEST, &digest::of(at.to_string().as_bytes()), 1);
        it.platform = Some(RawPlatform {
            architecture: (*architecture).to_owned(),
            os: (*os).to_owned(),
            variant: variant.map(str::to_owned),
        });
        it
    };
    let manifests = platforms.iter().enumerate().map(entry).collect();
    Index { schema_version: 2, media_type: String::new(), manifests }
}

fn chosen(index: &Index, platform: &str) -> Option<usize> {
    let found = index.choose(&platform.parse().unwrap())?;
    index.manifests.iter().position(|it| it == found)
}

#[test]
fn index_leads_to_the_wanted_platforms_image() {
    let index = index(&[
        ("linux", "arm", Some("v6")),
        ("linux", "arm", Some("v7")),
        ("linux", "arm64", Some("v8")),
        ("windows", "amd64", None),
        ("linux", "amd64", Some("v3")),
        ("linux", "amd64", None),
    ]);
    for (platform, expected) in [
        ("linux/amd64", Some(5)),
        ("linux/amd64/v3", Some(4)),
        ("linux/amd64/v4", None),
        ("linux/arm/v7", Some(1)),
        ("linux/arm", Some(0)),
        ("linux/arm64", Some(2)),
        ("linux/riscv64", None),
    ] {
        assert_eq!(chosen(&index, platform), expected, "{platform}");
    }
    assert!(index.platforms().contains("linux/arm/v6, linux/arm/v7, linux/arm64/v8"));
}

#[test]
fn attestations_are_never_chosen() {
    let mut index = index(&[("linux", "amd64", None)]);
    let note = ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned());
    index.manifests[0].annotations.extend([note]);
    assert_eq!(chosen(&index, "linux/amd64"), None);
    assert_eq!(index.platforms(), "none");
}

#[test]
fn gos_null_lists_are_empty() {
    let digest = digest::of(b"");
    let text =
        format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":2}},"layers":null}}"#);
    let Document::Manifest(manifest) = Document::parse("it", text.as_bytes()).unwrap() else {
        panic!("an index")
    };
    assert!(manifest.layers.is_empty());
    let text = r#"{"config":null,"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
    assert!(parse_config("it", text.as_bytes()).unwrap().rootfs.diff_ids.is_empty());
}

#[test]
fn hostile_documents_are_refused_with_a_reason() {
    let digest = digest::of(b"");
    let manifest = |config: &str, layers: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":2}},"layers":[{layers}]}}"#
        )
    };
    let layer = format!(r#"{{"digest":"{digest}","size":1}},"#);
    let many = layer.repeat(257);
    for (text, reason) in [
        (String::new(), "JSON"),
        ("[]".into(), "JSON"),
        ("{}".into(), "JSON"),
        ("[".repeat(1000), "JSON"),
        (r#"{"schemaVersion":1}"#.into(), "schema 1"),
        (r#"{"manifests":[],"layers":[]}"#.into(), "at once"),
        (manifest("sha256:../../../etc/passwd", ""), "no sha256 digest"),
        (manifest("sha512:ab", ""), "no sha256 digest"),
        (manifest(&digest, r#"{"digest":"../x","size":1}"#), "no sha256 digest"),
        (manifest(&digest, &format!(r#"{{"digest":"{digest}","size":-1}}"#)), "JSON"),
        (manifest(&digest, many.trim_end_matches(',')), "256 layers"),
    ] {
        let error = Document::parse("it", text.as_bytes()).expect_err(&text).to_string();
        assert!(error.contains(reason), "{error}");
    }
    let upper = digest.to_uppercase();
    for diff_id in ["../x", "sha256:", &upper] {
        let text = format!(r#"{{"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#);
        let error = parse_config("it", text.as_bytes()).expect_err(&text).to_string();
        assert!(error.contains("no sha256 digests"), "{error}");
    }
}

#[test]
fn compression_is_seen_in_the_first_bytes() {
    assert_eq!(layer_media_type(&[0x1f, 0x8b, 8, 0]), media::OCI_GZIP);
    assert_eq!(layer_media_type(&[0x28, 0xb5, 0x2f, 0xfd]), media::OCI_ZSTD);
    assert_eq!(layer_media_type(b"etc/"), media::OCI_TAR);
    assert_eq!(layer_media_type(b""), media::OCI_TAR);
}
