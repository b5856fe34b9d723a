//! The document and the table agree, and the document describes what's accepted.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::routes::{Request, parse};

const METHODS: [&str; 5] = ["get", "put", "patch", "post", "delete"];

/// Path, method and operation of everything in the document.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| {
            assert!(METHODS.contains(&method.as_str()), "{path} has {method}");
            ((path.clone(), method.clone()), operation.clone())
        })
    });
    each.collect()
}

#[test]
fn document_and_table_have_the_same_operations() {
    let documented: BTreeSet<_> = operations(&document())
        .into_iter()
        .map(|((path, method), operation)| {
            (path, method.to_uppercase(), operation["operationId"].as_str().unwrap().to_owned())
        })
        .collect();
    let routed: BTreeSet<_> = routes::all()
        .map(|route| {
            (route.path.to_owned(), route.method.as_str().to_owned(), route.operation.to_owned())
        })
        .collect();
    assert_eq!(documented, routed);
    assert_eq!(routes::all().count(), routed.len(), "a route is there twice");
    let names: BTreeSet<_> = routes::all().map(|route| route.operation).collect();
    assert_eq!(names.len(), routed.len(), "two operations have one name");
}

#[test]
fn every_documented_operation_is_routed_with_its_example() {
    for ((path, method), operation) in operations(&document()) {
        let body = operation.pointer("/requestBody/content/application~1json/example");
        let body = body.map(Value::to_string).unwrap_or_default();
        let id = operation.pointer("/parameters/0/example").and_then(Value::as_str);
        let path = match path.split_once('{') {
            Some((start, _)) => format!("{start}{}", id.unwrap_or("disk")),
            None => path,
        };
        let request = parse(&method.to_uppercase(), &path, body.as_bytes());
        assert!(request.is_ok(), "{method} {path} {body}: {request:?}");
    }
}

#[test]
fn every_action_of_the_vmm_has_a_path() {
    let mut named = BTreeSet::new();
    let more = [
        ("PUT", "/actions", r#"{"action_type": "SendCtrlAltDel"}"#),
        ("PUT", "/actions", r#"{"action_type": "FlushMetrics"}"#),
        ("PATCH", "/vm", r#"{"state": "Resumed"}"#),
    ];
    let examples = routes::all().map(|route| {
        let body = example(route).unwrap_or_default();
        let id = route.parameter().map(|name| body[name].as_str().unwrap_or("disk").to_owned());
        let path = match route.path.split_once('{') {
            Some((start, _)) => format!("{start}{}", id.unwrap_or_default()),
            None => route.path.to_owned(),
        };
        (route.method.as_str(), path, route.example)
    });
    let more = more.map(|(method, path, body)| (method, path.to_owned(), body));
    for (method, path, body) in examples.chain(more) {
        if let Ok(Request::Action(action)) = parse(method, &path, body.as_bytes()) {
            named.insert(action.name());
        }
    }
    let all: BTreeSet<_> = crate::VmmAction::NAMES.iter().copied().collect();
    assert_eq!(named, all);
}

#[test]
fn every_reference_and_link_leads_somewhere() {
    fn walk(value: &Value, document: &Value, operations: &BTreeSet<&str>) {
        match value {
            Value::Array(values) => {
                values.iter().for_each(|value| walk(value, document, operations));
            }
            Value::Object(object) => {
                for (key, value) in object {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(target)) => {
                            let pointer = target.strip_prefix('#').unwrap();
                            assert!(document.pointer(pointer).is_some(), "{target}");
                        }
                        ("links", Value::Object(links)) => {
                            for link in links.values() {
                                let target = link["operationId"].as_str().unwrap();
                                assert!(operations.contains(target), "{target}");
                            }
                        }
                        _ => walk(value, document, operations),
                    }
                }
            }
            _ => {}
        }
    }
    let document = document();
    let operations = routes::all().map(|route| route.operation).collect();
    walk(&document, &document, &operations);
}

#[test]
fn every_operation_says_what_it_does_and_how_it_fails() {
    for ((path, method), operation) in operations(&document()) {
        let place = format!("{method} {path}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{place}");
        for status in ["400", "default"] {
            let schema = format!("/responses/{status}/content/application~1json/schema/$ref");
            let fault = operation.pointer(&schema);
            assert_eq!(fault, Some(&json!("#/components/schemas/Fault")), "{place}");
        }
        let has_parameter = operation["parameters"][0]["in"] == "path";
        assert_eq!(path.contains('{'), has_parameter, "{place}");
    }
}

/// A body type refuses keys that it doesn't know, and the document says so.
#[test]
fn every_body_is_closed() {
    let document = document();
    for ((path, method), operation) in operations(&document) {
        let schema = operation.pointer("/requestBody/content/application~1json/schema/$ref");
        let Some(name) = schema.and_then(Value::as_str) else { continue };
        let schema = document.pointer(&name[1..]).unwrap();
        let is_open = name.ends_with("/MmdsContents");
        assert_eq!(schema["additionalProperties"], json!(is_open), "{method} {path}: {name}");
    }
}

/// What's required in the document is required by the parser, key by key, and nothing else is.
#[test]
fn required_keys_are_those_of_the_document() {
    let document = document();
    for route in routes::all() {
        let (Body::Required(schema) | Body::Optional(schema)) = route.body else { continue };
        let Value::Object(full) = example(route).unwrap() else { panic!("{}", route.operation) };
        let id = route.parameter().map(|name| full[name].as_str().unwrap());
        let path = match route.path.split_once('{') {
            Some((start, _)) => format!("{start}{}", id.unwrap()),
            None => route.path.to_owned(),
        };
        let schema = &document["components"]["schemas"][&*(schema.name)()];
        let required: BTreeSet<_> = match &schema["required"] {
            Value::Array(keys) => keys.iter().map(|key| key.as_str().unwrap()).collect(),
            _ => BTreeSet::new(),
        };
        for key in full.keys() {
            let mut body = full.clone();
            body.remove(key);
            let outcome =
                parse(route.method.as_str(), &path, Value::Object(body).to_string().as_bytes());
            // These are required by rules between keys.
            let is_special = matches!(
                (route.operation, key.as_str()),
                ("loadSnapshot", "mem_backend")
                    | ("patchMachineConfiguration", _)
                    | ("putGuestNetworkInterfaceByID" | "extAddNetworkInterface", "host_dev_name")
            );
            if !is_special {
                let is_required = required.contains(key.as_str());
                assert_eq!(outcome.is_err(), is_required, "{path} without {key}: {outcome:?}");
            }
        }
    }
}

#[test]
fn descriptions_have_no_links_of_our_docstrings() {
    assert_eq!(without_links("see [`a::b`](super::b), [`c`] and [d](e)"), "see a::b, c and [d](e)");
    assert!(!json().contains("](super"));
}
