//! What a route is.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::Request;
use super::call::{Call, check_id};
use crate::action::VmmAction;
use crate::error::ApiError;

/// A method of HTTP that the API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// GET: something is asked for.
    Get,
    /// PUT: something is set or done.
    Put,
    /// PATCH: something is changed.
    Patch,
    /// POST: something is done; only below `/ext/`.
    Post,
    /// DELETE: something is removed; only below `/ext/`.
    Delete,
}

impl Method {
    /// The method as HTTP has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One method of one path.
#[derive(Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path's template, such as `/drives/{drive_id}`: its last segment may be an identifier.
    pub path: &'static str,
    /// The operation's name, which is unique.
    pub operation: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// A body that's accepted, as JSON; empty where none is taken. The identifier in it is the
    /// example for the path's.
    pub example: &'static str,
    pub(crate) body: Body,
    pub(crate) success: Success,
    /// The operations that show or undo the effect.
    pub(crate) links: &'static [&'static str],
    handler: Handler,
}

/// What a route takes as a body.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    /// None, and one is refused.
    None,
    /// None, and one is passed over, as Firecracker does there.
    Ignored,
    /// One of this type, or none.
    Optional(TypeSchema),
    /// One of this type.
    Required(TypeSchema),
}

/// What a route answers when the VMM did what was asked.
#[derive(Clone, Copy)]
pub(crate) enum Success {
    /// 204, and no body.
    Empty,
    /// 200, and JSON of this type.
    Json(TypeSchema),
    /// 200, and a text in Prometheus' format.
    Prometheus,
    /// 200, and JSON lines of this type until the client or the VM ends.
    Lines(TypeSchema),
    /// 200, and the OpenAPI document.
    OpenApi,
}

/// How a type describes itself in the OpenAPI document.
#[derive(Clone, Copy)]
pub(crate) struct TypeSchema {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) schema: fn() -> RefOr<Schema>,
    pub(crate) referenced: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl TypeSchema {
    pub(crate) const fn of<T: ToSchema + PartialSchema>() -> Self {
        Self { name: T::name, schema: T::schema, referenced: T::schemas }
    }
}

#[derive(Clone, Copy)]
enum Handler {
    Action(fn(&Call<'_>) -> Result<VmmAction, ApiError>),
    OpenApi,
    Events,
}

/// A GET.
pub(super) const fn get(path: &'static str, operation: &'static str) -> Route {
    Route::new(Method::Get, path, operation)
}

/// A PUT.
pub(super) const fn put(path: &'static str, operation: &'static str) -> Route {
    Route::new(Method::Put, path, operation)
}

/// A PATCH.
pub(super) const fn patch(path: &'static str, operation: &'static str) -> Route {
    Route::new(Method::Patch, path, operation)
}

/// A POST.
pub(super) const fn post(path: &'static str, operation: &'static str) -> Route {
    Route::new(Method::Post, path, operation)
}

/// A DELETE.
pub(super) const fn delete(path: &'static str, operation: &'static str) -> Route {
    Route::new(Method::Delete, path, operation)
}

impl Route {
    const fn new(method: Method, path: &'static str, operation: &'static str) -> Self {
        Self {
            method,
            path,
            operation,
            summary: "",
            example: "",
            body: Body::None,
            success: Success::Empty,
            links: &[],
            handler: Handler::OpenApi,
        }
    }

    pub(super) const fn about(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub(super) const fn takes<T: ToSchema>(self, example: &'static str) -> Self {
        Self { body: Body::Required(TypeSchema::of::<T>()), example, ..self }
    }

    pub(super) const fn may_take<T: ToSchema>(self, example: &'static str) -> Self {
        Self { body: Body::Optional(TypeSchema::of::<T>()), example, ..self }
    }

    pub(super) const fn ignores_body(self) -> Self {
        Self { body: Body::Ignored, ..self }
    }

    pub(super) const fn gives<T: ToSchema>(self) -> Self {
        Self { success: Success::Json(TypeSchema::of::<T>()), ..self }
    }

    pub(super) const fn gives_prometheus(self) -> Self {
        Self { success: Success::Prometheus, ..self }
    }

    pub(super) const fn seen_by(self, links: &'static [&'static str]) -> Self {
        Self { links, ..self }
    }

    pub(super) const fn asks(self, read: fn(&Call<'_>) -> Result<VmmAction, ApiError>) -> Self {
        Self { handler: Handler::Action(read), ..self }
    }

    pub(super) const fn streams_events<T: ToSchema>(self) -> Self {
        let success = Success::Lines(TypeSchema::of::<T>());
        Self { handler: Handler::Events, success, ..self }
    }

    pub(super) const fn gives_openapi(self) -> Self {
        Self { handler: Handler::OpenApi, success: Success::OpenApi, ..self }
    }

    /// The name of the identifier in the path, if the path has one.
    #[must_use]
    pub fn parameter(&self) -> Option<&'static str> {
        self.path.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}'))
    }

    /// Whether it's one that Firecracker doesn't have.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.path.starts_with("/ext/")
    }

    /// The identifier of a path that fits the template, empty if the template or the path has
    /// none.
    pub(super) fn matches<'a>(&self, segments: &'a [Cow<'_, str>]) -> Option<&'a str> {
        let mut segments = segments.iter();
        let mut id = "";
        for expected in self.path.split('/').filter(|expected| !expected.is_empty()) {
            let segment = segments.next().map(Cow::as_ref);
            if expected.starts_with('{') {
                id = segment.unwrap_or_default();
            } else if segment != Some(expected) {
                return None;
            }
        }
        segments.next().is_none().then_some(id)
    }

    pub(super) fn read(&self, call: &Call<'_>) -> Result<Request, ApiError> {
        let method = call.method.as_str();
        match (self.body, call.body.is_empty()) {
            (Body::None, false) => {
                let message = format!("{method} request cannot have a body on this path.");
                return Err(ApiError::bad_request(message));
            }
            (Body::Required(_), true) => {
                let message = format!("Empty {method} request: this path needs a body.");
                return Err(ApiError::bad_request(message));
            }
            _ => {}
        }
        if self.parameter().is_some() {
            check_id(call.id, self.is_ours())?;
        }
        match self.handler {
            Handler::Action(read) => read(call).map(Request::Action),
            Handler::OpenApi => Ok(Request::OpenApi),
            Handler::Events => Ok(Request::Events),
        }
    }
}
