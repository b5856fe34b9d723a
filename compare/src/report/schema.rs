//! The JSON schema of a report: `docs/compare.schema.json`.

use crate::model::Report;

/// The schema, as it's published.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// The schema's file.
pub fn document() -> String {
    format!("{:#}\n", schema())
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;
    use crate::testing;

    #[test]
    fn schema_in_the_documentation_is_the_models() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compare.schema.json");
        if env::var_os("VMCTL_WRITE_DOCS").is_some() {
            fs::write(path, document()).unwrap();
        }
        assert!(
            fs::read_to_string(path).is_ok_and(|written| written == document()),
            "docs/compare.schema.json is stale: VMCTL_WRITE_DOCS=1 cargo test -p compare schema"
        );
    }

    #[test]
    fn a_report_is_valid_by_the_schema() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let report = serde_json::to_value(testing::nginx()).unwrap();
        let complaints: Vec<_> =
            validator.iter_errors(&report).map(|error| error.to_string()).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    #[test]
    fn what_is_no_report_is_invalid_by_the_schema() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let good = serde_json::to_value(testing::nginx()).unwrap();
        for (place, value) in [
            ("/host/cpus", serde_json::json!("many")),
            ("/rows/0/cells/0/outcome", serde_json::json!("guessed")),
            ("/rows/0/cells/0/samples", serde_json::json!(["fast"])),
            ("/isolation/0/observations/0/verdict", serde_json::json!("fine")),
            ("/ways/0/id", serde_json::json!("unikernel")),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(place).unwrap() = value;
            assert!(!validator.is_valid(&bad), "{place}");
        }
    }
}
