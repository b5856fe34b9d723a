//! Values as Go prints them.

use serde_json::Value;

/// Appends a value: texts as they are, lists as `[a b]`, maps as `map[k:v]`.
pub(super) fn value(value: &Value, output: &mut String) {
    match value {
        Value::Null => output.push_str("<no value>"),
        Value::Array(_) | Value::Object(_) => nested(value, output),
        _ => plain(value, output),
    }
}

/// A value as a text.
pub(super) fn text(shown: &Value) -> String {
    let mut output = String::new();
    value(shown, &mut output);
    output
}

/// Appends a value inside another.
fn nested(value: &Value, output: &mut String) {
    match value {
        Value::Null => output.push_str("<nil>"),
        Value::Array(items) => {
            output.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    output.push(' ');
                }
                nested(item, output);
            }
            output.push(']');
        }
        Value::Object(fields) => {
            output.push_str("map[");
            for (at, (key, item)) in
                fields.iter().filter(|(key, _)| *key != super::LABELS).enumerate()
            {
                if at > 0 {
                    output.push(' ');
                }
                output.push_str(key);
                output.push(':');
                nested(item, output);
            }
            output.push(']');
        }
        _ => plain(value, output),
    }
}

fn plain(value: &Value, output: &mut String) {
    match value {
        Value::String(text) => output.push_str(text),
        other => output.push_str(&other.to_string()),
    }
}
