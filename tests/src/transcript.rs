//! Requests and what they must be answered with, as a text:
//!
//! ```text
//! # A comment.
//! PATCH /vm {"state":"Paused"}
//!   400 a part of the fault's message
//! ```
//!
//! After a status of success there may be a part of the body.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use api::routes::{self, Method, Route};
use serde_json::Value;

use crate::curl::{Answer, curl};

/// All methods that a path of the API may know.
pub const METHODS: [Method; 5] =
    [Method::Get, Method::Put, Method::Patch, Method::Post, Method::Delete];

/// How an answer's line begins.
const INDENT: &str = "  ";

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The body; empty for none.
    pub body: String,
    /// The answer's status.
    pub status: u16,
    /// A part of the answer: of the `fault_message` where the status isn't a success.
    pub part: String,
}

/// Reads a transcript.
pub fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    while let Some(request) = lines.next() {
        let answer = lines.next().and_then(|line| line.strip_prefix(INDENT));
        let answer = answer.with_context(|| format!("{request:?} has no answer"))?;
        let mut words = request.splitn(3, ' ').map(str::to_owned);
        let (method, path) = (words.next(), words.next());
        let (status, part) = answer.split_once(' ').unwrap_or((answer, ""));
        cases.push(Case {
            method: method.unwrap_or_default(),
            path: path.with_context(|| format!("{request:?} has no path"))?,
            body: words.next().unwrap_or_default(),
            status: status.parse().with_context(|| format!("{answer:?} has no status"))?,
            part: part.to_owned(),
        });
    }
    Ok(cases)
}

/// Sends the requests of `cases` one after the other, and lists all that were answered otherwise.
pub fn play(socket: &Path, cases: &[Case]) -> Result<()> {
    let mut problems = Vec::new();
    for case in cases {
        let answer = curl(socket, &case.method, &case.path, &case.body)?;
        if let Err(problem) = check(&answer, case.status, &case.part) {
            problems.push(format!("{} {} {}: {problem}", case.method, case.path, case.body));
        }
    }
    ensure!(problems.is_empty(), "{} answers:\n{}", problems.len(), problems.join("\n"));
    Ok(())
}

/// Checks one answer: its status, the form that goes with it, and a part of its text.
pub fn check(answer: &Answer, status: u16, part: &str) -> Result<()> {
    ensure!(answer.status == status, "expected {status} {part:?}, got {answer:?}");
    match status {
        204 => ensure!(answer.body.is_empty(), "204 with a body: {answer:?}"),
        200 => ensure!(answer.body.contains(part), "expected {part:?}, got {answer:?}"),
        _ => {
            let message = fault_message(answer)?;
            ensure!(message.contains(part), "expected {part:?}, got {message:?}");
        }
    }
    Ok(())
}

/// Returns the one thing that the body of a refusal says.
fn fault_message(answer: &Answer) -> Result<String> {
    ensure!(answer.content_type == "application/json", "no JSON: {answer:?}");
    let body: Value = serde_json::from_str(&answer.body)?;
    match body.as_object().map(|body| (body.len(), body.get("fault_message"))) {
        Some((1, Some(Value::String(message)))) if !message.is_empty() => Ok(message.clone()),
        _ => bail!("no fault: {answer:?}"),
    }
}

/// Fails unless `cases` have a request for each route of the API but `others`, by operation.
pub fn check_all_routes_are_in(cases: &[Case], others: &[&str]) -> Result<()> {
    let missing: Vec<String> = routes::all()
        .filter(|route| !others.contains(&route.operation))
        .filter(|route| !cases.iter().any(|case| is_on(route, &case.method, &case.path)))
        .map(|route| format!("{} {}", route.method.as_str(), route.path))
        .collect();
    ensure!(missing.is_empty(), "no request for {}", missing.join(", "));
    Ok(())
}

fn is_on(route: &Route, method: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (expected, given) = (route.path.split('/'), path.split('/'));
    let fits =
        |(want, have): (&str, &str)| want == have || (want.starts_with('{') && !have.is_empty());
    route.method.as_str() == method
        && expected.clone().count() == given.clone().count()
        && expected.zip(given).all(fits)
}

/// Returns a path on which `route` is found, with the identifier of its example.
pub fn path_of(route: &Route) -> String {
    let Some(name) = route.parameter() else { return route.path.to_owned() };
    let example: Value = serde_json::from_str(route.example).unwrap_or_default();
    let id = example[name].as_str().unwrap_or("id");
    route.path.replace(&format!("{{{name}}}"), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcript_is_read_with_spaces_in_bodies_and_answers() {
        let cases = parse("# x\n\nPUT /a {\"b\": 1}\n  400 no b\nGET /c\n  204\n").unwrap();
        let case = |method: &str, path: &str, body: &str, status, part: &str| Case {
            method: method.to_owned(),
            path: path.to_owned(),
            body: body.to_owned(),
            status,
            part: part.to_owned(),
        };
        let put = case("PUT", "/a", "{\"b\": 1}", 400, "no b");
        assert_eq!(cases, [put, case("GET", "/c", "", 204, "")]);
        for wrong in ["GET /a", "GET /a\nGET /b\n  204", "GET\n  204", "GET /a\n  ok"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn route_without_a_request_is_named() {
        let missing = |text: &str, others: &[&str]| {
            check_all_routes_are_in(&parse(text).unwrap(), others).unwrap_err().to_string()
        };
        let error = missing("PUT /drives/a\n  204\nGET /\n  200", &["putVsock", "putLogger"]);
        for found in ["GET /,", "PUT /drives/{drive_id}", "PUT /logger"] {
            assert!(!error.contains(found), "{error}");
        }
        for missing in ["PATCH /drives/{drive_id}", "PUT /metrics"] {
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn refusal_must_have_a_fault_and_nothing_else() {
        let answer = |body: &str| Answer {
            status: 400,
            content_type: "application/json".to_owned(),
            body: body.to_owned(),
        };
        assert!(check(&answer(r#"{"fault_message":"a b"}"#), 400, "b").is_ok());
        for body in [r#"{"fault_message":"a"}"#, r#"{"fault_message":"b","x":1}"#, "[]", "b"] {
            assert!(check(&answer(body), 400, "b").is_err(), "{body}");
        }
        assert!(check(&answer(r#"{"fault_message":"b"}"#), 404, "b").is_err());
    }
}
