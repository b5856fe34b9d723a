//! Results as an attacker may make them.

use super::*;

const ATTEMPT: &str = r#"{"what":"clock","done":false,"refused":true,"detail":"no","more":[1]}"#;

#[test]
fn result_is_read_though_it_has_unknown_fields_and_lacks_optional_ones() {
    let result: AttemptResult = parse(&format!("{ATTEMPT}\n")).unwrap();
    assert!(result.refused);
    assert_eq!(result.error, None);
}

#[test]
fn result_that_is_none_is_an_error() {
    for wrong in ["{", "[]", "null", "{}", r#"{"what":1}"#, "\u{0}", &ATTEMPT.replace("true", "7")]
    {
        assert!(matches!(parse::<AttemptResult>(wrong), Err(ParseError::Json(_))), "{wrong}");
    }
    assert!(matches!(parse::<AttemptResult>(""), Err(ParseError::Lines(0))));
    let two = format!("{ATTEMPT}\n{ATTEMPT}\n");
    assert!(matches!(parse::<AttemptResult>(&two), Err(ParseError::Lines(2))));
    let deep = "[".repeat(MAX_RESULT_BYTES);
    assert!(matches!(parse::<AttemptResult>(&deep), Err(ParseError::Json(_))));
    let long = " ".repeat(MAX_RESULT_BYTES + 1);
    assert!(matches!(parse::<AttemptResult>(&long), Err(ParseError::TooLong(_))));
}

#[test]
fn texts_lose_what_moves_a_cursor_and_what_is_too_long() {
    let line = ATTEMPT.replace("clock", r"\u001b[2J\u0007\u202ek\r\u009b\n");
    let result: AttemptResult = parse(&line).unwrap();
    assert_eq!(&*result.what, "\u{fffd}[2J\u{fffd}\u{fffd}k\u{fffd}\u{fffd}\n");
    let line = ATTEMPT.replace("clock", &"ä".repeat(5000));
    let result: AttemptResult = parse(&line).unwrap();
    assert_eq!(result.what.len(), 4096);
}

#[test]
fn numbers_that_nothing_measures_are_errors() {
    let line = |number: &str| {
        format!(r#"{{"kind":"pipe","count":1,"elapsed_ns":1,"cpu_ns":1,"ns_per_call":{number}}}"#)
    };
    assert!(parse::<SyscallResult>(&line("1.5")).is_ok());
    for wrong in ["-1", "1e999", "NaN", "null", "\"1\""] {
        assert!(parse::<SyscallResult>(&line(wrong)).is_err(), "{wrong}");
    }
    assert!(parse::<SyscallResult>(&line("1").replace("\"count\":1", "\"count\":-1")).is_err());
}

#[test]
fn lists_and_maps_are_cut() {
    let facts = crate::facts::facts().unwrap();
    let mut value = serde_json::to_value(&facts).unwrap();
    value["interfaces"] = vec!["x"; 1000].into();
    value["block_devices"] = vec![serde_json::json!({"name": "x", "bytes": 1}); 1000].into();
    let many: serde_json::Map<_, _> = (0..1000).map(|n| (n.to_string(), "x".into())).collect();
    value["namespaces"] = many.into();
    let read: Facts = parse(&value.to_string()).unwrap();
    assert_eq!(read.interfaces.len(), 256);
    assert_eq!(read.block_devices.unwrap().len(), 256);
    assert_eq!(read.namespaces.len(), 256);
}

#[test]
fn what_is_printed_is_what_is_read() {
    let facts = crate::facts::facts().unwrap();
    let read: Facts = parse(&serde_json::to_string(&facts).unwrap()).unwrap();
    assert_eq!(read, facts);
}
