//! The same counters in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::metrics::Subject;

/// What each line's name starts with.
const PREFIX: &str = "vmctl";

/// Renders `subjects`: one metric for each counter of each sort, with the identifier as a label.
pub(super) fn render(vm: &str, subjects: &[Subject]) -> String {
    let mut families: BTreeMap<String, Vec<(Option<&str>, u64)>> = BTreeMap::new();
    for subject in subjects {
        for (name, value) in &subject.counters {
            let family = format!("{PREFIX}_{}_{name}", subject.kind);
            families.entry(family).or_default().push((subject.id.as_deref(), *value));
        }
    }
    let mut text = String::new();
    for (family, samples) in families {
        // What goes up only is a counter; times of the last action and sizes go both ways.
        let kind = if is_gauge(&family) { "gauge" } else { "counter" };
        let _ = writeln!(text, "# TYPE {family} {kind}");
        for (id, value) in samples {
            let id = id.map(|id| format!(",id=\"{}\"", escape(id))).unwrap_or_default();
            let _ = writeln!(text, "{family}{{vm=\"{}\"{id}}} {value}", escape(vm));
        }
    }
    text
}

fn is_gauge(family: &str) -> bool {
    ["_latencies_us_", "_time_us", "_pages", "_state"].iter().any(|part| family.contains(part))
}

/// Escapes a label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_sort_share_a_type_line_and_labels_are_escaped() {
        let drive = |id: &str, reads| Subject {
            kind: "block",
            id: Some(id.to_owned()),
            counters: vec![("read_count", reads)],
        };
        let text = render("a\"b", &[drive("root", 3), drive("data", 4)]);
        assert_eq!(
            text,
            "# TYPE vmctl_block_read_count counter\n\
             vmctl_block_read_count{vm=\"a\\\"b\",id=\"root\"} 3\n\
             vmctl_block_read_count{vm=\"a\\\"b\",id=\"data\"} 4\n"
        );
    }
}
