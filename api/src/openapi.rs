//! The OpenAPI 3.1 document, from the types of bodies and the table of [`routes`].

use std::sync::OnceLock;

use serde_json::{Value, json};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Ref, Type};
use utoipa::openapi::server::Server;
use utoipa::openapi::{
    Components, Content, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Required, Response,
    ResponseBuilder, link::Link,
};

use crate::error::Fault;
use crate::routes::{self, Body, JSON, Method, NDJSON, PROMETHEUS, Route, Success, TypeSchema};

/// The document as JSON.
#[must_use]
pub fn json() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| document().to_string())
}

/// The document.
#[must_use]
pub fn document() -> Value {
    // Only maps with keys other than strings can't be written, and it has none.
    let mut document = serde_json::to_value(build()).unwrap_or_default();
    unlink(&mut document);
    refine(&mut document);
    document
}

fn build() -> OpenApi {
    let info = InfoBuilder::new()
        .title("vmm")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The API of one virtual machine, over HTTP on a Unix socket. Paths outside /ext/ are \
             those of Firecracker's API, version 1.",
        ))
        .build();
    let mut paths = Paths::new();
    for route in routes::all() {
        paths.add_path_operation(route.path, vec![method(route.method)], operation(route));
    }
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("http://localhost")]))
        .paths(paths)
        .components(Some(components()))
        .build()
}

const fn method(method: Method) -> HttpMethod {
    match method {
        Method::Get => HttpMethod::Get,
        Method::Put => HttpMethod::Put,
        Method::Patch => HttpMethod::Patch,
        Method::Post => HttpMethod::Post,
        Method::Delete => HttpMethod::Delete,
    }
}

/// Every schema that a route's body or answer is, or refers to.
fn components() -> Components {
    let fault = TypeSchema::of::<Fault>();
    let used = routes::all().flat_map(|route| {
        let body = match route.body {
            Body::Required(schema) | Body::Optional(schema) => Some(schema),
            Body::None | Body::Ignored => None,
        };
        let answer = match route.success {
            Success::Json(schema) | Success::Lines(schema) => Some(schema),
            Success::Empty | Success::Prometheus | Success::OpenApi => None,
        };
        body.into_iter().chain(answer)
    });
    let mut schemas = Vec::new();
    for schema in used.chain([fault]) {
        schemas.push(((schema.name)().into_owned(), (schema.schema)()));
        (schema.referenced)(&mut schemas);
    }
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

fn operation(route: &Route) -> Operation {
    let tag = if route.is_ours() { "ext" } else { "v1" };
    let mut operation = OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(route.operation))
        .summary(Some(route.summary))
        .request_body(request_body(route))
        .response(success_status(route), success(route))
        .response("400", fault("What's asked for is malformed, or doesn't fit the VM's state"))
        .response("default", fault("What's asked for can't be done"));
    if let Some(name) = route.parameter() {
        operation = operation.parameter(id_parameter(route, name));
    }
    if matches!(route.success, Success::Lines(_)) {
        operation = operation.parameter(follow_parameter());
    }
    operation.build()
}

fn id_parameter(route: &Route, name: &str) -> ParameterBuilder {
    let pattern = if route.is_ours() { "^[A-Za-z0-9_-]+$" } else { "^[A-Za-z0-9_]+$" };
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(64))
        .pattern(Some(pattern));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The device's name on the host's side, the same as in the body"))
        .schema(Some(schema))
        .example(example(route).and_then(|body| body.get(name).cloned()))
}

fn follow_parameter() -> ParameterBuilder {
    ParameterBuilder::new()
        .name("follow")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("Whether what will happen is waited for; otherwise the answer ends"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::Boolean).default(Some(true.into()))))
        .example(Some(false.into()))
}

fn request_body(route: &Route) -> Option<RequestBody> {
    let (schema, required) = match route.body {
        Body::None | Body::Ignored => return None,
        Body::Optional(schema) => (schema, Required::False),
        Body::Required(schema) => (schema, Required::True),
    };
    let mut content = Content::new(Some(reference(&schema)));
    content.example = example(route);
    Some(RequestBodyBuilder::new().content(JSON, content).required(Some(required)).build())
}

fn example(route: &Route) -> Option<Value> {
    serde_json::from_str(route.example).ok()
}

const fn success_status(route: &Route) -> &'static str {
    match route.success {
        Success::Empty => "204",
        _ => "200",
    }
}

fn success(route: &Route) -> Response {
    let response = ResponseBuilder::new().description(match route.success {
        Success::Empty => "It's done",
        _ => route.summary,
    });
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let mut response = match route.success {
        Success::Empty => response,
        Success::Json(schema) => response.content(JSON, Content::new(Some(reference(&schema)))),
        Success::Prometheus => response.content(PROMETHEUS, Content::new(Some(text()))),
        Success::Lines(_) => response.content(NDJSON, Content::new(Some(text()))),
        Success::OpenApi => {
            let object = ObjectBuilder::new().schema_type(Type::Object);
            response.content(JSON, Content::new(Some(object)))
        }
    };
    for target in route.links {
        response = response.link(*target, link(route, target));
    }
    response.build()
}

/// A link to another operation, with the identifier of this one's path where both have one.
fn link(route: &Route, target: &str) -> Link {
    let target_route = routes::all().find(|other| other.operation == target);
    let name = target_route.and_then(Route::parameter).filter(|_| route.parameter().is_some());
    let mut link = Link::builder().operation_id(target);
    if let Some(name) = name {
        link = link.parameter(name, format!("$request.path.{name}"));
    }
    link.build()
}

fn fault(description: &str) -> Response {
    let content = Content::new(Some(reference(&TypeSchema::of::<Fault>())));
    ResponseBuilder::new().description(description).content(JSON, content).build()
}

fn reference(schema: &TypeSchema) -> Ref {
    Ref::from_schema_name((schema.name)())
}

/// Turns the links of our docstrings, `` [`name`](path) ``, into their names.
fn unlink(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(unlink),
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => *text = without_links(text),
                    _ => unlink(value),
                }
            }
        }
        _ => {}
    }
}

fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        plain.push_str(before);
        plain.push_str(name);
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain + rest
}

/// Says what types can't: which keys exclude each other.
fn refine(document: &mut Value) {
    let absent = json!({ "type": "null" });
    let given = json!({ "not": { "type": "null" } });
    let rules = [
        (
            "LoadSnapshotParams",
            "oneOf",
            json!([
                { "required": ["mem_backend"],
                  "properties": { "mem_backend": given, "mem_file_path": absent } },
                { "required": ["mem_file_path"],
                  "properties": { "mem_file_path": given, "mem_backend": absent } },
            ]),
        ),
        (
            "DriveSpec",
            "oneOf",
            json!([
                { "required": ["path_on_host"],
                  "properties": { "path_on_host": given, "socket": absent } },
                { "required": ["socket"],
                  "properties": {
                      "socket": given, "path_on_host": absent, "is_read_only": absent,
                      "io_engine": absent, "rate_limiter": absent, "format": absent,
                      "backing": absent, "concat": absent, "serial": absent,
                  } },
            ]),
        ),
        ("MachinePatch", "minProperties", json!(1)),
    ];
    for (schema, key, rule) in rules {
        if let Some(Value::Object(schema)) =
            document.pointer_mut(&format!("/components/schemas/{schema}"))
        {
            schema.insert(key.to_owned(), rule);
        }
    }
}

#[cfg(test)]
mod tests;
