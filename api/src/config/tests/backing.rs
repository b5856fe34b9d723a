//! What a drive's image builds upon.

use serde_json::{Value, json};

use super::{base, check, refusal, with};
use crate::config::*;

fn file(path: &str, format: &str) -> Value {
    json!({ "path_on_host": path, "format": format })
}

/// A drive on `path` over `backing`.
fn overlay(path: &str, backing: Value) -> Value {
    json!({
        "drive_id": "data", "path_on_host": path, "is_root_device": false,
        "format": "qcow2", "backing": backing
    })
}

#[test]
fn chain_goes_through_the_checked_configuration_and_back() {
    let chain = json!([file("a", "qcow2"), file("b", "qcow2"), file("base", "raw")]);
    let config = check(&with("/drives/0", overlay("top", chain.clone()))).unwrap();
    let drive = &config.drives[1];
    let base = BackingFile { path_on_host: "base".into(), format: DiskFormat::Raw };
    assert_eq!((drive.backing.len(), &drive.backing[2]), (3, &base));
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["drives"][1]["backing"], chain);
    assert!(written["drives"][0].get("backing").is_none());
    assert_eq!(check(&written).unwrap(), config);
}

#[test]
fn longest_chain_is_accepted_and_a_longer_one_refused() {
    let chain = |len: usize| {
        let files = (0..len).map(|n| file(&format!("{n}.img"), "qcow2"));
        overlay("top", files.collect())
    };
    check(&with("/drives/0", chain(MAX_BACKING_FILES))).unwrap();
    let (_, message) = refusal("/drives/0", chain(MAX_BACKING_FILES + 1));
    assert!(message.contains("at most 32"), "{message}");
}

#[test]
fn wrong_chain_is_refused_with_its_reason() {
    for (chain, expected) in [
        (json!([file("", "raw")]), "drives[0].backing: is required"),
        (json!([file("a\0", "raw")]), "has a NUL"),
        (json!([file("a", "raw"), file("b", "raw")]), "\"b\" can't be below a raw image"),
        (json!([file("a", "qcow2"), file("a", "qcow2")]), "\"a\" is in the drive's chain twice"),
        (json!([file("top", "qcow2")]), "\"top\" is in the drive's chain twice"),
        (json!([{ "path_on_host": "a" }]), "missing field `format`"),
        (json!([{ "path_on_host": "a", "format": "raw", "bogus": 1 }]), "unknown field `bogus`"),
        (json!([file("a", "vmdk")]), "unknown variant `vmdk`"),
    ] {
        let (_, message) = refusal("/drives/0", overlay("top", chain));
        assert!(message.contains(expected), "{message}");
    }
    for format in [json!(null), json!("raw")] {
        let mut drive = overlay("top", json!([file("a", "raw")]));
        drive["format"] = format;
        let (_, message) = refusal("/drives/0", drive);
        assert!(message.contains("below a raw image"), "{message}");
    }
}

#[test]
fn images_below_may_be_shared_but_not_written_by_another_device() {
    let mut config = base();
    let mut other = overlay("other", json!([file("base", "raw")]));
    other["drive_id"] = "other".into();
    config["drives"] = json!([overlay("top", json!([file("base", "raw")])), other]);
    check(&config).unwrap();

    let raw = |read_only: bool| json!({ "drive_id": "raw", "path_on_host": "base", "is_root_device": false, "is_read_only": read_only });
    config["drives"][1] = raw(true);
    check(&config).unwrap();
    config["drives"][1] = raw(false);
    let error = check(&config).unwrap_err().to_string();
    let expected = "drives[1].path_on_host: \"base\" is already used by drives[0].backing";
    assert!(error.contains(expected), "{error}");
    config["drives"].as_array_mut().unwrap().reverse();
    let error = check(&config).unwrap_err().to_string();
    let expected = "drives[1].backing: \"base\" is already used by drives[0].path_on_host";
    assert!(error.contains(expected), "{error}");

    config["drives"] = json!([overlay("top", json!([file("base", "raw")]))]);
    config["pmem"] = json!([{ "id": "p", "path_on_host": "base", "read_only": true }]);
    check(&config).unwrap();
    config["pmem"][0]["read_only"] = false.into();
    let error = check(&config).unwrap_err().to_string();
    assert!(error.contains("pmem[0].path_on_host: \"base\" is already used"), "{error}");
}
