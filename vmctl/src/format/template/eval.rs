//! A template's tree over values.

use std::borrow::Cow;

use serde_json::Value;

use super::parser::{Base, Branches, Node, Operand, Pipeline};
use super::{Purpose, TemplateError, functions, print};

/// The field of a row that holds its labels one by one, for `.Label "name"`. Templates can't name
/// it.
pub(in crate::format) const LABELS: &str = "\0labels";

/// A value, borrowed from the data where it's a part of that.
type Part<'a> = Cow<'a, Value>;

/// Evaluates a tree.
pub(super) fn render(
    nodes: &[Node],
    data: &Value,
    purpose: Purpose,
) -> Result<String, TemplateError> {
    let mut evaluator = Evaluator {
        variables: vec![(String::new(), Cow::Borrowed(data))],
        purpose,
        output: String::new(),
    };
    evaluator.nodes(nodes, &Cow::Borrowed(data))?;
    Ok(evaluator.output)
}

struct Evaluator<'a> {
    /// The innermost last; `$` is the first, whose name is empty.
    variables: Vec<(String, Part<'a>)>,
    purpose: Purpose,
    output: String,
}

impl<'a> Evaluator<'a> {
    /// Evaluates a block: what's declared in it is gone after it.
    fn nodes(&mut self, nodes: &[Node], dot: &Part<'a>) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Part<'a>) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    print::value(&value, &mut self.output);
                }
            }
            Node::If(branches) => self.branches(branches, dot, false)?,
            Node::With(branches) => self.branches(branches, dot, true)?,
            Node::Range { over, body, otherwise } => self.range(over, body, otherwise, dot)?,
        }
        Ok(())
    }

    fn branches(
        &mut self,
        branches: &Branches,
        dot: &Part<'a>,
        sets_dot: bool,
    ) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for (condition, body) in &branches.branches {
            let value = self.pipeline(condition, dot)?;
            if functions::is_true(&value) {
                self.nodes(body, if sets_dot { &value } else { dot })?;
                self.variables.truncate(outer);
                return Ok(());
            }
        }
        self.nodes(&branches.otherwise, dot)?;
        self.variables.truncate(outer);
        Ok(())
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Part<'a>,
    ) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        let bare = Pipeline { variables: Vec::new(), ..over.clone() };
        let items = items(self.pipeline(&bare, dot)?)?;
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            match over.variables.as_slice() {
                [value] => self.variables.push((value.clone(), item.clone())),
                [name, value] => {
                    self.variables.push((name.clone(), Cow::Owned(key)));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            self.nodes(body, &item)?;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    /// Evaluates a pipeline, and sets the variables that it's for.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Part<'a>) -> Result<Part<'a>, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot)?);
        }
        let value = value.unwrap_or(Cow::Owned(Value::Null));
        if let [name] = pipeline.variables.as_slice() {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
            } else {
                let slot = self.variables.iter_mut().rev().find(|(it, _)| it == name);
                slot.ok_or_else(|| TemplateError::NoVariable(name.clone()))?.1 = value.clone();
            }
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &[Operand],
        piped: Option<Part<'a>>,
        dot: &Part<'a>,
    ) -> Result<Part<'a>, TemplateError> {
        let Some((first, operands)) = command.split_first() else {
            return Err(TemplateError::Malformed("missing value for command"));
        };
        if let Base::Function(name) = &first.base {
            if !first.fields.is_empty() {
                return Err(TemplateError::Malformed("a function's result needs parentheses"));
            }
            return self.call(name, operands, piped, dot);
        }
        if let Some(("Label", before)) =
            first.fields.split_last().map(|(last, before)| (last.as_str(), before))
            && (!operands.is_empty() || piped.is_some())
        {
            let row =
                self.operand(&Operand { base: first.base.clone(), fields: before.to_vec() }, dot)?;
            let arguments = self.arguments(operands, piped, dot)?;
            return self.label(&row, &arguments);
        }
        if !operands.is_empty() || piped.is_some() {
            return Err(TemplateError::Malformed("can't give argument to non-function"));
        }
        self.operand(first, dot)
    }

    /// `.Label "name"`, a method of Docker's rows.
    fn label(&self, row: &Value, arguments: &[Part<'a>]) -> Result<Part<'a>, TemplateError> {
        let problem = |problem: &str| TemplateError::Call {
            function: "Label".to_owned(),
            problem: problem.to_owned(),
        };
        let [name] = arguments else { return Err(problem("expects one label's name")) };
        let name = name.as_str().ok_or_else(|| problem("expects a text"))?;
        if self.purpose == Purpose::Head {
            // As Docker titles such a column: the name's last word.
            let word = name.rsplit(['.', '/']).next().unwrap_or(name);
            return Ok(Cow::Owned(word.replace(['-', '_'], " ").into()));
        }
        let labels = row.get(LABELS).ok_or_else(|| problem("there are no labels here"))?;
        Ok(Cow::Owned(labels.get(name).cloned().unwrap_or_else(|| "".into())))
    }

    fn call(
        &mut self,
        name: &str,
        operands: &[Operand],
        piped: Option<Part<'a>>,
        dot: &Part<'a>,
    ) -> Result<Part<'a>, TemplateError> {
        if let "and" | "or" = name {
            return self.either(name == "or", operands, piped, dot);
        }
        let arguments = self.arguments(operands, piped, dot)?;
        if self.purpose == Purpose::Head
            && functions::keeps_titles(name)
            && let Some(title) = arguments.iter().find(|it| it.is_string())
        {
            return Ok(title.clone());
        }
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        functions::call(name, &arguments).map(Cow::Owned)
    }

    /// `and` and `or`: no argument is looked at after the one that decides.
    fn either(
        &mut self,
        until: bool,
        operands: &[Operand],
        piped: Option<Part<'a>>,
        dot: &Part<'a>,
    ) -> Result<Part<'a>, TemplateError> {
        let mut last = None;
        for operand in operands {
            let value = self.argument(operand, dot)?;
            if functions::is_true(&value) == until {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or_else(|| TemplateError::Call {
            function: if until { "or" } else { "and" }.to_owned(),
            problem: "expects a value".to_owned(),
        })
    }

    fn arguments(
        &mut self,
        operands: &[Operand],
        piped: Option<Part<'a>>,
        dot: &Part<'a>,
    ) -> Result<Vec<Part<'a>>, TemplateError> {
        let given = operands.iter().map(|operand| self.argument(operand, dot));
        let mut arguments = given.collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped);
        Ok(arguments)
    }

    /// An operand that isn't a command's first: a function's name is a call without arguments.
    fn argument(&mut self, operand: &Operand, dot: &Part<'a>) -> Result<Part<'a>, TemplateError> {
        match &operand.base {
            Base::Function(_) => self.command(std::slice::from_ref(operand), None, dot),
            _ => self.operand(operand, dot),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Part<'a>) -> Result<Part<'a>, TemplateError> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => Cow::Owned(value.clone()),
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(name) => return Err(TemplateError::NoFunction(name.clone())),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(it, _)| it == name);
                found.ok_or_else(|| TemplateError::NoVariable(name.clone()))?.1.clone()
            }
        };
        for name in &operand.fields {
            value = field(value, name)?;
        }
        Ok(value)
    }
}

/// Looks a field up.
fn field<'a>(value: Part<'a>, name: &str) -> Result<Part<'a>, TemplateError> {
    let found = match &value {
        Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
        Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
    };
    found.ok_or_else(|| TemplateError::NoField { field: name.to_owned(), known: known(&value) })
}

/// What can be asked for instead.
fn known(value: &Value) -> String {
    let Value::Object(fields) = value else {
        return format!("{}, which has no fields", functions::kind(value));
    };
    let names: Vec<_> = fields
        .keys()
        .filter(|key| *key != LABELS)
        .map(|key| key.escape_debug().to_string())
        .collect();
    if names.is_empty() { "nothing in it".to_owned() } else { names.join(", ") }
}

/// What a `range` goes through, with keys or positions.
fn items(value: Part<'_>) -> Result<Vec<(Value, Part<'_>)>, TemplateError> {
    Ok(match value {
        Cow::Borrowed(Value::Array(items)) => {
            items.iter().enumerate().map(|(at, item)| (at.into(), Cow::Borrowed(item))).collect()
        }
        Cow::Owned(Value::Array(items)) => {
            items.into_iter().enumerate().map(|(at, item)| (at.into(), Cow::Owned(item))).collect()
        }
        Cow::Borrowed(Value::Object(fields)) => {
            fields.iter().map(|(key, item)| (key.as_str().into(), Cow::Borrowed(item))).collect()
        }
        Cow::Owned(Value::Object(fields)) => {
            fields.into_iter().map(|(key, item)| (key.into(), Cow::Owned(item))).collect()
        }
        value if value.is_null() => Vec::new(),
        value => {
            let problem = format!("can't iterate over {}", functions::kind(&value));
            return Err(TemplateError::Call { function: "range".to_owned(), problem });
        }
    })
}
