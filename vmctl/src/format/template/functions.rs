//! The functions that templates call.

use std::cmp::Ordering;

use serde_json::Value;

use super::{LABELS, TemplateError, print};

/// The most that `printf` pads to, and that `pad` adds.
const MAX_PADDING: usize = 1000;

/// Whether a function leaves the titles of a table's columns as they are: those that Docker adds.
pub(super) fn keeps_titles(name: &str) -> bool {
    matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "pad" | "truncate")
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[&Value]) -> Result<Value, TemplateError> {
    let result = match name {
        "json" => one(arguments).map(|value| without_labels(value).to_string().into()),
        "lower" => one_text(arguments).map(|text| text.to_lowercase().into()),
        "upper" => one_text(arguments).map(|text| text.to_uppercase().into()),
        "title" => one_text(arguments).map(|text| title(text).into()),
        "split" => split(arguments),
        "join" => join(arguments),
        "truncate" => truncate(arguments),
        "pad" => pad(arguments),
        "len" => len(arguments),
        "index" => index(arguments),
        "slice" => slice(arguments),
        "not" => one(arguments).map(|value| (!is_true(value)).into()),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => compare(name, arguments),
        "print" => Ok(print_all(arguments).into()),
        "println" => Ok(print_line(arguments).into()),
        "printf" => printf(arguments),
        _ => return Err(TemplateError::NoFunction(name.to_owned())),
    };
    result.map_err(|problem| TemplateError::Call { function: name.to_owned(), problem })
}

/// Whether a value counts as true: it's there, and neither zero nor empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// What sort of value it is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn one<'a>(arguments: &[&'a Value]) -> Result<&'a Value, String> {
    match arguments {
        [value] => Ok(value),
        _ => Err(format!("expects 1 argument, not {}", arguments.len())),
    }
}

fn two<'a>(arguments: &[&'a Value]) -> Result<(&'a Value, &'a Value), String> {
    match arguments {
        [first, second] => Ok((first, second)),
        _ => Err(format!("expects 2 arguments, not {}", arguments.len())),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("expects a text, not {}", kind(value)))
}

fn count(value: &Value) -> Result<usize, String> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| format!("expects a number from 0 on, not {value}"))
}

fn one_text<'a>(arguments: &[&'a Value]) -> Result<&'a str, String> {
    text(one(arguments)?)
}

/// A value as it's shown: the labels that `.Label` looks in aren't.
fn without_labels(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove(LABELS);
    }
    value
}

fn title(text: &str) -> String {
    let mut starts = true;
    let mut titled = String::with_capacity(text.len());
    for char in text.chars() {
        if starts {
            titled.extend(char.to_uppercase());
        } else {
            titled.push(char);
        }
        starts = !(char.is_alphanumeric() || matches!(char, '_' | '\''));
    }
    titled
}

fn split(arguments: &[&Value]) -> Result<Value, String> {
    let (whole, separator) = two(arguments)?;
    let (whole, separator) = (text(whole)?, text(separator)?);
    if separator.is_empty() {
        return Ok(whole.chars().map(|char| Value::from(char.to_string())).collect());
    }
    Ok(whole.split(separator).map(Value::from).collect())
}

fn join(arguments: &[&Value]) -> Result<Value, String> {
    let (items, separator) = two(arguments)?;
    let separator = text(separator)?;
    let items = match items {
        Value::Array(items) => items.as_slice(),
        Value::Null => &[],
        other => return Err(format!("expects a list, not {}", kind(other))),
    };
    Ok(items.iter().map(print::text).collect::<Vec<_>>().join(separator).into())
}

fn truncate(arguments: &[&Value]) -> Result<Value, String> {
    let (whole, length) = two(arguments)?;
    Ok(text(whole)?.chars().take(count(length)?).collect::<String>().into())
}

/// Puts spaces before and after a text that isn't empty.
fn pad(arguments: &[&Value]) -> Result<Value, String> {
    let [whole, before, after] = arguments else {
        return Err(format!("expects 3 arguments, not {}", arguments.len()));
    };
    let (before, after) = (count(before)?.min(MAX_PADDING), count(after)?.min(MAX_PADDING));
    let whole = text(whole)?;
    if whole.is_empty() {
        return Ok(whole.into());
    }
    Ok(format!("{}{whole}{}", " ".repeat(before), " ".repeat(after)).into())
}

fn len(arguments: &[&Value]) -> Result<Value, String> {
    Ok(match one(arguments)? {
        Value::String(text) => text.len().into(),
        Value::Array(items) => items.len().into(),
        Value::Object(fields) => fields.len().into(),
        Value::Null => 0.into(),
        other => return Err(format!("{} has no length", kind(other))),
    })
}

/// Looks up one key or position after the other. As in Go, a key that isn't there gives nothing.
fn index(arguments: &[&Value]) -> Result<Value, String> {
    let Some((first, keys)) = arguments.split_first() else {
        return Err("expects a list or a map".to_owned());
    };
    let mut value = (*first).clone();
    for key in keys {
        value = match &value {
            Value::Array(items) => {
                let at = count(key)?;
                items.get(at).cloned().ok_or_else(|| format!("index out of range: {at}"))?
            }
            Value::Object(fields) => {
                fields.get(text(key)?).cloned().unwrap_or_else(|| missing(fields))
            }
            Value::Null => Value::Null,
            other => return Err(format!("can't index {}", kind(other))),
        };
    }
    Ok(value)
}

/// What a map has for a key that isn't there: in a map of texts an empty one.
fn missing(fields: &serde_json::Map<String, Value>) -> Value {
    if fields.values().all(Value::is_string) { "".into() } else { Value::Null }
}

/// `slice x from to`.
fn slice(arguments: &[&Value]) -> Result<Value, String> {
    let Some((whole, bounds)) = arguments.split_first().filter(|(_, bounds)| bounds.len() <= 2)
    else {
        return Err("expects a text or a list, and at most two positions".to_owned());
    };
    let bounds = bounds.iter().map(|bound| count(bound)).collect::<Result<Vec<_>, _>>()?;
    let from = bounds.first().copied().unwrap_or(0);
    let outside = || "index out of range".to_owned();
    match whole {
        Value::String(text) => {
            let to = bounds.get(1).copied().unwrap_or(text.len());
            Ok(text.get(from..to).ok_or_else(outside)?.into())
        }
        Value::Array(items) => {
            let to = bounds.get(1).copied().unwrap_or(items.len());
            Ok(items.get(from..to).ok_or_else(outside)?.to_vec().into())
        }
        other => Err(format!("can't slice {}", kind(other))),
    }
}

/// `eq a b c` is true if a equals any of the others; the rest take two.
fn compare(name: &str, arguments: &[&Value]) -> Result<Value, String> {
    let Some((first, others)) = arguments.split_first().filter(|(_, others)| !others.is_empty())
    else {
        return Err("expects 2 arguments".to_owned());
    };
    if others.len() > 1 && name != "eq" {
        return Err(format!("expects 2 arguments, not {}", arguments.len()));
    }
    if name == "eq" {
        return Ok(others.iter().any(|other| is_equal(first, other)).into());
    }
    if name == "ne" {
        return Ok((!is_equal(first, others[0])).into());
    }
    let order = order(first, others[0])
        .ok_or_else(|| format!("can't compare {} with {}", kind(first), kind(others[0])))?;
    Ok(match name {
        "lt" => order == Ordering::Less,
        "le" => order != Ordering::Greater,
        "gt" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }
    .into())
}

fn is_equal(a: &Value, b: &Value) -> bool {
    a == b || order(a, b) == Some(Ordering::Equal)
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}

/// As Go's `Sprint`: a space between two values of which neither is a text.
fn print_all(arguments: &[&Value]) -> String {
    let mut output = String::new();
    for (at, value) in arguments.iter().enumerate() {
        if at > 0 && !value.is_string() && !arguments[at - 1].is_string() {
            output.push(' ');
        }
        print::value(value, &mut output);
    }
    output
}

fn print_line(arguments: &[&Value]) -> String {
    let words: Vec<_> = arguments.iter().map(|value| print::text(value)).collect();
    words.join(" ") + "\n"
}

fn printf(arguments: &[&Value]) -> Result<Value, String> {
    let Some((format, values)) = arguments.split_first() else {
        return Err("expects a format".to_owned());
    };
    let mut values = values.iter();
    let mut output = String::new();
    let mut rest = text(format)?;
    while let Some((before, after)) = rest.split_once('%') {
        output.push_str(before);
        let (directive, after) = Directive::parse(after)?;
        rest = after;
        if directive.verb == '%' {
            output.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("%{} has no value", directive.verb))?;
        output.push_str(&directive.apply(value)?);
    }
    output.push_str(rest);
    match values.next() {
        None => Ok(output.into()),
        Some(value) => Err(format!("the format doesn't use {value}")),
    }
}

/// What stands after a `%`.
struct Directive {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    verb: char,
}

impl Directive {
    fn parse(text: &str) -> Result<(Self, &str), String> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let number = |text: &str| match text {
            "" => Ok(0),
            text => text.parse().ok().filter(|it| *it <= MAX_PADDING).ok_or("too wide"),
        };
        let flags = text.bytes().take_while(|flag| matches!(flag, b'-' | b'0' | b'+')).count();
        let (flags, rest) = text.split_at(flags);
        let (width, mut rest) = rest.split_at(digits(rest));
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let (value, after) = after.split_at(digits(after));
            precision = Some(number(value)?);
            rest = after;
        }
        let verb = rest.chars().next().ok_or("a % at the end")?;
        let width = number(width)?;
        let (left, zeros) = (flags.contains('-'), flags.contains('0'));
        Ok((Self { left, zeros, width, precision, verb }, &rest[verb.len_utf8()..]))
    }

    fn apply(&self, value: &Value) -> Result<String, String> {
        let wrong = || format!("%{} can't show {}", self.verb, kind(value));
        let shown = match self.verb {
            's' | 'v' => self.cut(print::text(value)),
            'q' => format!("{:?}", self.cut(text(value)?.to_owned())),
            't' => value.as_bool().ok_or_else(wrong)?.to_string(),
            'd' if value.is_i64() || value.is_u64() => value.to_string(),
            'x' => format!("{:x}", value.as_u64().ok_or_else(wrong)?),
            'f' => {
                let precision = self.precision.unwrap_or(6);
                format!("{:.precision$}", value.as_f64().ok_or_else(wrong)?)
            }
            'd' => return Err(wrong()),
            verb => return Err(format!("unknown verb %{verb}")),
        };
        let missing = self.width.saturating_sub(shown.chars().count());
        Ok(match (self.left, self.zeros && value.is_number()) {
            (true, _) => shown + &" ".repeat(missing),
            (false, true) => match shown.strip_prefix('-') {
                Some(digits) => format!("-{}{digits}", "0".repeat(missing)),
                None => "0".repeat(missing) + &shown,
            },
            (false, false) => " ".repeat(missing) + &shown,
        })
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text,
        }
    }
}
