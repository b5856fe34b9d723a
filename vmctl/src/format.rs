//! What `--format` makes of rows: tables, JSON, templates; and the words and numbers in them, as
//! Docker writes them.

pub(crate) mod filters;
pub(crate) mod human;
mod table;
pub(crate) mod template;

use serde_json::{Map, Value};
use thiserror::Error;

use self::template::{LABELS, Template, TemplateError};

/// A row: what templates see, and what `--format json` prints.
pub(crate) type Row = Value;

/// The columns of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// The table that's printed without `--format`.
    pub(crate) table: &'static str,
    /// The title of each field that a table can show.
    pub(crate) titles: &'static [(&'static str, &'static str)],
}

/// What's wrong with a `--format`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("--format {text}")]
pub(crate) struct FormatError {
    /// The format as given.
    text: String,
    /// What's wrong with it.
    source: TemplateError,
}

impl Columns {
    /// Renders rows as `format` says: nothing or `table` for the columns' own table, `table
    /// TEMPLATE`, `json`, or a template that's rendered once per row.
    ///
    /// # Errors
    /// The template is malformed, or asks for a field that rows haven't.
    pub(crate) fn render(&self, rows: &[Row], format: Option<&str>) -> Result<String, FormatError> {
        let text = format.unwrap_or("table").trim();
        let failed = |source| FormatError { text: text.to_owned(), source };
        match text {
            "json" => {
                let lines = rows.iter().map(|row| format!("{}\n", shown(row)));
                return Ok(lines.collect());
            }
            "table" => return self.render_table(rows, self.table).map_err(failed),
            _ => {}
        }
        if let Some(columns) = text.strip_prefix("table ").or(text.strip_prefix("table\\t")) {
            return self.render_table(rows, &unescape(columns.trim())).map_err(failed);
        }
        let template = Template::parse(&unescape(text)).map_err(failed)?;
        let lines = rows.iter().map(|row| Ok(template.render(row)? + "\n"));
        lines.collect::<Result<_, _>>().map_err(failed)
    }

    fn render_table(&self, rows: &[Row], columns: &str) -> Result<String, TemplateError> {
        let template = Template::parse(columns)?;
        let titles = self.titles.iter().map(|(key, title)| ((*key).to_owned(), (*title).into()));
        let mut lines = vec![template.render_head(&Value::Object(titles.collect()))?];
        for row in rows {
            lines.push(template.render(&printable(row))?);
        }
        Ok(table::align(&lines))
    }
}

/// Renders what `inspect` shows: all as one array without a format, else each by the template.
///
/// # Errors
/// The template is malformed, or asks for a field that isn't there.
pub(crate) fn render_each(items: &[Value], text: &str) -> Result<String, FormatError> {
    let failed = |source| FormatError { text: text.to_owned(), source };
    if text == "json" {
        return Ok(format!("{}\n", Value::from(items)));
    }
    let template = Template::parse(text).map_err(failed)?;
    let lines = items.iter().map(|item| Ok(template.render(item)? + "\n"));
    lines.collect::<Result<_, _>>().map_err(failed)
}

/// Checks that a format can be read.
///
/// # Errors
/// The template is malformed.
pub(crate) fn check(text: &str) -> Result<(), FormatError> {
    let failed = |source| FormatError { text: text.to_owned(), source };
    Template::parse(text).map(drop).map_err(failed)
}

/// Aligns rows of texts below their titles.
pub(crate) fn align(titles: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &Vec<String>| {
        cells.iter().map(|cell| one_line(cell)).collect::<Vec<_>>().join("\t")
    };
    let lines: Vec<_> = std::iter::once(titles.join("\t")).chain(rows.iter().map(line)).collect();
    table::align(&lines)
}

/// A text that does nothing to a terminal or to the lines around it.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// Adds labels to a row: as text for `.Labels`, one by one for `.Label "name"`.
pub(crate) fn add_labels<'a>(row: &mut Row, labels: impl Iterator<Item = (&'a str, &'a str)>) {
    let labels: Map<_, _> = labels.map(|(key, value)| (key.to_owned(), value.into())).collect();
    let text: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if let Some(row) = row.as_object_mut() {
        row.insert("Labels".to_owned(), text.join(",").into());
        row.insert(LABELS.to_owned(), Value::Object(labels));
    }
}

/// A row without what only templates use.
fn shown(row: &Row) -> Row {
    let mut row = row.clone();
    if let Some(fields) = row.as_object_mut() {
        fields.remove(LABELS);
    }
    row
}

/// A row whose texts do nothing to a terminal or to the table's lines: they're from images and
/// guests.
fn printable(row: &Row) -> Row {
    match row {
        Value::String(text) if text.contains(char::is_control) => one_line(text).into(),
        Value::Array(items) => items.iter().map(printable).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, item)| (key.clone(), printable(item))).collect())
        }
        other => other.clone(),
    }
}

/// Reads `\t` and `\n` outside of actions, as shells leave them in '...'.
fn unescape(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, action)) = rest.split_once("{{") {
        text.push_str(&before.replace("\\t", "\t").replace("\\n", "\n"));
        let end = action.find("}}").map_or(action.len(), |at| at + 2);
        text.push_str("{{");
        text.push_str(&action[..end]);
        rest = &action[end..];
    }
    text.push_str(&rest.replace("\\t", "\t").replace("\\n", "\n"));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: Columns = Columns {
        table: "{{.ID}}\t{{.Status}}\t{{.Names}}",
        titles: &[
            ("ID", "CONTAINER ID"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
            ("Labels", "LABELS"),
        ],
    };

    fn rows() -> Vec<Row> {
        let mut web = json!({"ID": "0123456789ab", "Status": "Up 2 minutes", "Names": "web"});
        add_labels(&mut web, [("a", "1"), ("b", "2,3")].into_iter());
        let mut db = json!({"ID": "ba9876543210", "Status": "", "Names": "a\u{1b}[2Jb\n\tc"});
        add_labels(&mut db, std::iter::empty());
        vec![web, db]
    }

    #[test]
    fn table_has_titles_and_columns_as_docker_has_them() {
        let table = COLUMNS.render(&rows(), None).unwrap();
        let lines = [
            "CONTAINER ID   STATUS         NAMES",
            "0123456789ab   Up 2 minutes   web",
            "ba9876543210                  a?[2Jb??c",
            "",
        ];
        assert_eq!(table, lines.join("\n"));
        assert_eq!(COLUMNS.render(&rows(), Some("table")).unwrap(), table);
        assert_eq!(COLUMNS.render(&[], None).unwrap(), "CONTAINER ID   STATUS    NAMES\n");
    }

    #[test]
    fn table_template_chooses_columns() {
        let text = COLUMNS.render(&rows()[..1], Some(r"table {{.Names}}\t{{.Labels}}")).unwrap();
        assert_eq!(text, "NAMES     LABELS\nweb       a=1,b=2,3\n");
        let text = COLUMNS.render(&rows()[..1], Some(r#"table {{.Label "b"}}"#)).unwrap();
        assert_eq!(text, "b\n2,3\n");
    }

    #[test]
    fn template_and_json_print_a_line_per_row() {
        let rows = rows();
        assert_eq!(
            COLUMNS.render(&rows[..1], Some(r"{{.ID}}\t{{.Names}}")).unwrap(),
            "0123456789ab\tweb\n"
        );
        let json = COLUMNS.render(&rows[..1], Some("json")).unwrap();
        let expected =
            r#"{"ID":"0123456789ab","Labels":"a=1,b=2,3","Names":"web","Status":"Up 2 minutes"}"#;
        assert_eq!(json.trim_end(), expected);
    }

    #[test]
    fn fields_that_rows_have_not_are_refused_even_without_rows() {
        for format in ["table {{.Nam}}", "{{.Nam}}"] {
            let error = COLUMNS.render(&rows(), Some(format)).unwrap_err();
            assert_eq!(error.to_string(), format!("--format {format}"));
            assert!(error.source.to_string().starts_with("can't evaluate field Nam"));
        }
        assert!(COLUMNS.render(&[], Some("table {{.Nam}}")).is_err());
    }

    #[test]
    fn escapes_are_read_outside_of_actions_only() {
        assert_eq!(unescape(r#"a\t{{join .X "\t"}}\n"#), "a\t{{join .X \"\\t\"}}\n");
        assert_eq!(unescape(r"{{.X\t"), r"{{.X\t");
    }

    #[test]
    fn inspected_objects_are_rendered_one_by_one() {
        let items = [json!({"Id": "a"}), json!({"Id": "b"})];
        assert_eq!(render_each(&items, "{{.Id}}").unwrap(), "a\nb\n");
        assert_eq!(render_each(&items, "json").unwrap(), "[{\"Id\":\"a\"},{\"Id\":\"b\"}]\n");
        assert!(render_each(&items, "{{.ID}}").is_err());
    }
}
