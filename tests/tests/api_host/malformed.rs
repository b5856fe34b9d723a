//! What no route takes, made from each route's own example: every sort of malformed body.

use anyhow::{Context, Result, ensure};
use api::routes::{self, Route};
use integration_tests::api_vm::ApiVm;
use integration_tests::curl::curl;
use integration_tests::transcript::{check, path_of};
use serde_json::{Map, Value, json};

use crate::workshop::{Workshop, end};

/// Takes any keys.
const METADATA: &str = "/mmds";

/// Reads no body, whatever it is.
const BODY_IGNORED: &str = "/balloon/hinting/stop";

/// Values of which at least one is of a wrong type for any key.
const WRONG_VALUES: [&str; 5] = ["[[]]", "{\"wrong\":[]}", "\"\\u0007 wrong\"", "-1.5", "true"];

/// What a body's malformation must be refused with.
const NOT_WHAT_IT_SHOULD_BE: &str = "The body of the request is not what it should be";

/// Sends `body` to `route` and holds the answer to be a 400 with these words.
fn refused(vmm: &ApiVm, route: &Route, body: &str, words: &str) -> Result<()> {
    let (method, path) = (route.method.as_str(), path_of(route));
    let answer = curl(vmm.socket(), method, &path, body)?;
    check(&answer, 400, words).with_context(|| format!("{method} {path} {body}"))
}

/// The example of a route that takes a body.
fn example(route: &Route) -> Option<Map<String, Value>> {
    serde_json::from_str(route.example).ok()
}

/// Runs `test` for every route that takes a body, and its example.
fn for_each_body(
    name: &str,
    test: impl Fn(&ApiVm, &Route, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm(name)?;
    let mut tried = 0;
    for route in routes::all() {
        if let Some(example) = example(route) {
            test(&vmm, route, example)?;
            tried += 1;
        }
    }
    ensure!(tried > 25, "only {tried} routes have an example");
    end(vmm)
}

#[test]
fn unknown_key_is_refused_by_its_name() -> Result<()> {
    for_each_body("unknown_key", |vmm, route, mut body| {
        if route.path == METADATA {
            return Ok(());
        }
        body.insert("no_such_key".to_owned(), json!(1));
        refused(vmm, route, &json!(body).to_string(), "unknown field `no_such_key`")
    })
}

#[test]
fn key_of_a_wrong_type_is_refused() -> Result<()> {
    for_each_body("wrong_type", |vmm, route, body| {
        if route.path == METADATA {
            return Ok(());
        }
        for key in body.keys() {
            let mut refusals = 0;
            for value in WRONG_VALUES {
                let mut wrong = body.clone();
                wrong.insert(key.clone(), serde_json::from_str(value)?);
                let body = json!(wrong).to_string();
                let answer = curl(vmm.socket(), route.method.as_str(), &path_of(route), &body)?;
                ensure!([204, 400].contains(&answer.status), "{} {body}: {answer:?}", route.path);
                refusals += usize::from(answer.body.contains(NOT_WHAT_IT_SHOULD_BE));
            }
            ensure!(refusals >= 3, "{} takes {key} of nearly any type", route.path);
        }
        Ok(())
    })
}

#[test]
fn missing_key_is_refused_by_its_name() -> Result<()> {
    for_each_body("missing_key", |vmm, route, body| {
        let document = api::openapi::document();
        let method = route.method.as_str().to_lowercase();
        let schema = &document["paths"][route.path][method]["requestBody"]["content"]["application/json"]
            ["schema"]["$ref"];
        let schema = schema.as_str().and_then(|reference| reference.strip_prefix('#'));
        let schema = schema.and_then(|path| document.pointer(path));
        let required = schema.context("no schema")?["required"].as_array();
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            let mut less = body.clone();
            less.remove(key).with_context(|| format!("{key} isn't in the example"))?;
            refused(vmm, route, &json!(less).to_string(), &format!("missing field `{key}`"))?;
        }
        Ok(())
    })
}

#[test]
fn body_that_is_no_object_is_refused() -> Result<()> {
    for_each_body("no_object", |vmm, route, body| {
        let text = json!(body).to_string();
        let cut = &text[..text.len() - 1];
        let twice = format!("{text}{text}");
        for wrong in [cut, &twice, "[]", "7", "\"text\"", "null", "{", "\u{fffd}"] {
            refused(vmm, route, wrong, NOT_WHAT_IT_SHOULD_BE)?;
        }
        Ok(())
    })
}

#[test]
fn identifier_must_be_that_of_the_path() -> Result<()> {
    for_each_body("other_id", |vmm, route, mut body| {
        let Some(name) = route.parameter() else { return Ok(()) };
        body.insert(name.to_owned(), json!("another"));
        let words = "does not match the id from the body, \"another\"";
        refused(vmm, route, &json!(body).to_string(), words)
    })
}

#[test]
fn body_is_refused_where_none_is_taken_and_required_where_one_is() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("no_body")?;
    let optional = ["/balloon/hinting/start", "/ext/v1/shutdown"];
    for route in routes::all().filter(|route| route.path != BODY_IGNORED) {
        if route.example.is_empty() {
            refused(&vmm, route, "{}", "cannot have a body")?;
        } else if !optional.contains(&route.path) {
            refused(&vmm, route, "", "this path needs a body")?;
        }
    }
    end(vmm)
}
