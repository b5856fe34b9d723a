//! The files that follow a drive's image.

use serde_json::{Value, json};

use super::{base, check, refusal, with};
use crate::config::*;

/// A read-only drive on `first`, which `files` follow.
fn drive(files: Value) -> Value {
    json!({
        "drive_id": "data", "path_on_host": "first", "is_root_device": false,
        "is_read_only": true, "concat": files
    })
}

#[test]
fn files_go_through_the_checked_configuration_and_back_in_their_order() {
    let files = json!(["b", "a", "first", "a"]);
    let config = check(&with("/drives/0", drive(files.clone()))).unwrap();
    assert_eq!(config.drives[1].concat[0].to_str(), Some("b"));
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["drives"][1]["concat"], files);
    assert!(written["drives"][0].get("concat").is_none());
    assert_eq!(check(&written).unwrap(), config);
}

#[test]
fn most_files_are_accepted_and_more_refused() {
    let files = |count: usize| drive((0..count).map(|n| json!(format!("{n}.erofs"))).collect());
    check(&with("/drives/0", files(MAX_CONCAT_FILES))).unwrap();
    let (_, message) = refusal("/drives/0", files(MAX_CONCAT_FILES + 1));
    assert!(message.contains("at most 256"), "{message}");
}

#[test]
fn what_cannot_be_followed_is_refused_with_its_reason() {
    let expected = "only a raw, read-only drive";
    for (key, value) in
        [("is_read_only", json!(false)), ("is_read_only", json!(null)), ("format", json!("qcow2"))]
    {
        let mut drive = drive(json!(["a"]));
        drive[key] = value;
        let (_, message) = refusal("/drives/0", drive);
        assert!(message.contains(expected), "{message}");
    }
    for (file, expected) in [("", "drives[0].concat: is required"), ("a\0", "has a NUL")] {
        let (_, message) = refusal("/drives/0", drive(json!([file])));
        assert!(message.contains(expected), "{message}");
    }
    let remote =
        json!({ "drive_id": "d", "socket": "s", "is_root_device": false, "concat": ["a"] });
    let (_, message) = refusal("/drives/0", remote);
    assert!(message.contains("leave out concat"), "{message}");
}

#[test]
fn files_may_be_shared_but_not_written_by_another_device() {
    let mut config = base();
    let other = |read_only: bool| {
        json!({
            "drive_id": "raw", "path_on_host": "layer", "is_root_device": false,
            "is_read_only": read_only
        })
    };
    config["drives"] = json!([drive(json!(["layer"])), other(true)]);
    check(&config).unwrap();
    config["drives"][1] = other(false);
    let error = check(&config).unwrap_err().to_string();
    let expected = "drives[1].path_on_host: \"layer\" is already used by drives[0].concat";
    assert!(error.contains(expected), "{error}");
}
