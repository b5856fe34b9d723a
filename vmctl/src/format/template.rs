//! The part of Go's templates that `--format` is written in, evaluated over JSON.
//!
//! Actions: fields and variables, literals, pipelines, parentheses, `if`, `with`, `range` (each with
//! `else`), comments and trim markers. Functions: Go's own that take and give plain values, and
//! those that Docker adds. The template comes from whoever runs `vmctl`, the values from images and
//! guests: nothing here recurses deeper than the template, which is bounded, and no value is ever
//! read as a template.

mod eval;
mod functions;
mod lexer;
mod parser;
mod print;
#[cfg(test)]
mod tests;

use serde_json::Value;
use thiserror::Error;

pub(super) use self::eval::LABELS;
use self::parser::Node;

/// How deep blocks and parentheses may be nested.
const MAX_DEPTH: usize = 64;

/// What's wrong with a template, or with the values that it was given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TemplateError {
    /// An action has no end.
    #[error("unclosed action: {{{{ without }}}}")]
    Unclosed,
    /// A text in quotes, or a comment, has no end, or an escape that's none.
    #[error("{0}")]
    Malformed(&'static str),
    /// Something stands where it makes no sense.
    #[error("unexpected {found:?} in {place}")]
    Unexpected {
        /// What was found.
        found: String,
        /// Where.
        place: &'static str,
    },
    /// A block has no `{{end}}`.
    #[error("unexpected end: {0} without {{{{end}}}}")]
    NoEnd(&'static str),
    /// Blocks or parentheses are nested too deep.
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// There's no such function.
    #[error("function {0:?} not defined")]
    NoFunction(String),
    /// There's no such variable.
    #[error("undefined variable \"${0}\"")]
    NoVariable(String),
    /// A value has no such field.
    #[error("can't evaluate field {field}: there is {known}")]
    NoField {
        /// What was looked for.
        field: String,
        /// What there is instead.
        known: String,
    },
    /// A function was called with what it can't take.
    #[error("{function}: {problem}")]
    Call {
        /// The function.
        function: String,
        /// What's wrong.
        problem: String,
    },
}

/// A template that was read.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// What a template is evaluated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The values.
    Values,
    /// A table's head: Docker's own functions leave what they're given as it is.
    Head,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It's malformed.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parser::parse(text)? })
    }

    /// Evaluates it over `data`.
    ///
    /// # Errors
    /// It asks for a field that `data` hasn't, or calls a function with what it can't take.
    pub(crate) fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, Purpose::Values)
    }

    /// Evaluates it over the titles of columns.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub(crate) fn render_head(&self, titles: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, titles, Purpose::Head)
    }
}
