//! The kernel's configuration: the fragments that we ask for, and whether we got them.

use std::collections::BTreeMap;

/// The configuration's fragments, common ones first.
pub(super) const FRAGMENTS: &[&str] = &[
    include_str!("../../../resources/kernel/base.config"),
    include_str!("../../../resources/kernel/x86_64.config"),
];

/// What a `.config` says of an option that is off, in words of our own.
const OFF: &str = "n";

/// Returns one line for each option of `requested` that isn't as requested in `resulting`.
///
/// Kconfig drops an option silently when a dependency is missing or its name has changed, and
/// turns one on when another selects it.
pub(super) fn unmet(requested: &str, resulting: &str) -> Vec<String> {
    let resulting = parse(resulting);
    parse(requested)
        .into_iter()
        .filter_map(|(name, wanted)| {
            let got = resulting.get(name).copied().unwrap_or(OFF);
            (got != wanted).then(|| format!("{name}: wanted {wanted}, got {got}"))
        })
        .collect()
}

/// Reads `NAME=VALUE` and `# NAME is not set`; later lines win, as they do for Kconfig.
fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (name, value) = match line.strip_prefix("# ") {
        Some(comment) => (comment.strip_suffix(" is not set")?, OFF),
        None => line.split_once('=')?,
    };
    name.starts_with("CONFIG_").then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTING: &str = "#\n# Automatically generated\n#\nCONFIG_PCI=y\nCONFIG_NR_CPUS=32\n\
                             # CONFIG_VT is not set\nCONFIG_MODEL=\"a=b\"\n";

    #[test]
    fn options_that_hold_are_not_reported() {
        let requested = "# why\nCONFIG_PCI=y\n# CONFIG_VT is not set\n# CONFIG_GONE is not set\n\
                         CONFIG_MODEL=\"a=b\"\n";
        assert!(unmet(requested, RESULTING).is_empty());
    }

    #[test]
    fn dropped_changed_and_selected_options_are_reported() {
        let requested = "CONFIG_VT=y\nCONFIG_NR_CPUS=64\n# CONFIG_PCI is not set\nCONFIG_GONE=y\n";
        assert_eq!(
            unmet(requested, RESULTING),
            [
                "CONFIG_GONE: wanted y, got n",
                "CONFIG_NR_CPUS: wanted 64, got 32",
                "CONFIG_PCI: wanted n, got y",
                "CONFIG_VT: wanted y, got n",
            ]
        );
    }

    #[test]
    fn later_fragment_overrides_an_earlier_one() {
        assert!(unmet("CONFIG_NR_CPUS=8\nCONFIG_NR_CPUS=32\n", RESULTING).is_empty());
    }

    #[test]
    fn fragments_name_each_option_once() {
        for fragment in FRAGMENTS {
            let lines = fragment.lines().filter_map(parse_line);
            let mut names: Vec<&str> = lines.map(|(name, _)| name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "an option is named twice");
        }
    }
}
