//! Directories of the host's that the guest mounts.

use serde_json::{Value, json};

use super::{base, check};
use crate::config::*;

fn with(filesystems: Value) -> Value {
    let mut config = base();
    config["filesystems"] = filesystems;
    config
}

fn refused(filesystem: Value, expected: &str) {
    let error = check(&with(json!([filesystem]))).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let message = format!("{error}: {cause}");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn shares_go_through_the_checked_configuration_and_back() {
    let config = check(&with(json!([
        { "fs_id": "fs0", "tag": "shares", "shares": [
            { "path": "/a" }, { "name": "b", "path": "b", "is_read_only": true }
        ] },
        { "fs_id": "fs1" },
    ])))
    .unwrap();
    let shares = &config.filesystems[0].shares;
    assert_eq!((shares[0].name.as_str(), shares[0].read_only), ("0", false));
    assert_eq!((shares[1].name.as_str(), shares[1].read_only), ("b", true));
    assert_eq!(config.filesystems[1].tag, "fs1");
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["filesystems"][0]["shares"][0]["name"], "0");
    assert_eq!(check(&written).unwrap(), config);
    assert!(check(&base()).unwrap().filesystems.is_empty());
}

#[test]
fn wrong_file_system_is_refused_with_its_place() {
    let share = |share: Value| json!({ "fs_id": "f", "shares": [{ "path": "/a" }, share] });
    refused(json!({ "fs_id": "" }), "filesystems[0].fs_id");
    refused(json!({ "fs_id": "a b" }), "filesystems[0].fs_id");
    for tag in ["", "x\n", &"x".repeat(37)] {
        refused(json!({ "fs_id": "f", "tag": tag }), "can't be a tag");
    }
    for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
        refused(share(json!({ "name": name, "path": "/b" })), "filesystems[0].shares[1].name");
    }
    refused(share(json!({ "name": "0", "path": "/b" })), "\"0\" is already used by filesystems[0]");
    refused(share(json!({ "path": "" })), "filesystems[0].shares[1].path: is required");
    refused(share(json!({ "name": "b" })), "missing field `path`");
    refused(share(json!({ "path": "/b", "bogus": 1 })), "unknown field `bogus`");
    let many = vec![json!({ "path": "/a" }); MAX_SHARES + 1];
    refused(json!({ "fs_id": "f", "shares": many }), "at most 256");
}

#[test]
fn names_and_tags_are_unique() {
    for (one, other, key) in [
        (json!({ "fs_id": "f" }), json!({ "fs_id": "f", "tag": "t" }), "fs_id"),
        (json!({ "fs_id": "f", "tag": "t" }), json!({ "fs_id": "g", "tag": "t" }), "tag"),
        (json!({ "fs_id": "f" }), json!({ "fs_id": "g", "tag": "f" }), "tag"),
    ] {
        let error = check(&with(json!([one, other]))).unwrap_err().to_string();
        let expected = format!("filesystems[1].{key}: ");
        assert!(error.contains(&expected) && error.contains("already used"), "{error}");
    }
}

#[test]
fn file_system_that_is_added_must_fit_those_that_are_there() {
    let config = check(&with(json!([{ "fs_id": "f", "tag": "t" }]))).unwrap();
    let spec = |fs_id: &str, tag: &str| FilesystemSpec {
        fs_id: fs_id.to_owned(),
        tag: Some(tag.to_owned()),
        shares: Vec::new(),
    };
    assert_eq!(config.check_filesystem(spec("g", "u")).unwrap().id, "g");
    config.check_filesystem(spec("f", "u")).unwrap_err();
    config.check_filesystem(spec("g", "t")).unwrap_err();
}
