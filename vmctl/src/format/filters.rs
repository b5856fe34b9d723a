//! `--filter key=value`.

use std::collections::BTreeMap;

use thiserror::Error;

/// Filters as they were given: for each key the values of which one must fit, for `label` all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

/// What's wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum FilterError {
    /// It has no value.
    #[error("bad format of filter {0:?} (expected name=value)")]
    NoValue(String),
    /// There's no such filter here.
    #[error("invalid filter {name:?}; there are {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// All that there are.
        known: String,
    },
    /// A value isn't one of those that there are.
    #[error("invalid filter {name}={value}: {problem}")]
    BadValue {
        /// The filter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What's wrong with it.
        problem: String,
    },
}

impl Filters {
    /// Reads filters; `known` are those of the command.
    ///
    /// # Errors
    /// One isn't `key=value`, or isn't known.
    pub(crate) fn parse(given: &[String], known: &[&str]) -> Result<Self, FilterError> {
        let mut filters = Self::default();
        for text in given {
            let (name, value) =
                text.split_once('=').ok_or_else(|| FilterError::NoValue(text.clone()))?;
            let name = name.trim().to_ascii_lowercase();
            if !known.contains(&name.as_str()) {
                return Err(FilterError::Unknown { name, known: known.join(", ") });
            }
            filters.values.entry(name).or_default().push(value.trim().to_owned());
        }
        Ok(filters)
    }

    /// Adds one that was given otherwise than by `--filter`.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.values.entry(name.to_owned()).or_default().push(value.to_owned());
    }

    /// All filters with their values.
    pub(crate) fn values(&self) -> &BTreeMap<String, Vec<String>> {
        &self.values
    }

    /// The values of a filter; none if it wasn't given.
    pub(crate) fn get(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a filter was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether a filter wasn't given, or one of its values fits.
    pub(crate) fn fits(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        !self.has(name) || self.get(name).iter().any(|value| fits(value))
    }

    /// Whether a name has what `name=` looks for: a part of it, at its beginning with `^`, at its
    /// end with `$`.
    pub(crate) fn fits_name(&self, name: &str) -> bool {
        self.fits("name", |pattern| matches_name(pattern, name))
    }

    /// Whether labels have all that `label=` looks for, and nothing that `label!=` does.
    pub(crate) fn fits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }

    /// A filter that's true or false.
    ///
    /// # Errors
    /// It's neither.
    pub(crate) fn truth(&self, name: &'static str) -> Result<Option<bool>, FilterError> {
        let Some(value) = self.get(name).last() else { return Ok(None) };
        match value.as_str() {
            "1" | "t" | "true" | "True" | "TRUE" => Ok(Some(true)),
            "0" | "f" | "false" | "False" | "FALSE" => Ok(Some(false)),
            _ => Err(FilterError::BadValue {
                name,
                value: value.clone(),
                problem: "expected true or false".to_owned(),
            }),
        }
    }

    /// Checks that each value of a filter is one of a few words.
    ///
    /// # Errors
    /// One isn't.
    pub(crate) fn check_words(
        &self,
        name: &'static str,
        words: &[&str],
    ) -> Result<(), FilterError> {
        match self.get(name).iter().find(|value| !words.contains(&value.as_str())) {
            None => Ok(()),
            Some(value) => Err(FilterError::BadValue {
                name,
                value: value.clone(),
                problem: format!("expected {}", words.join(", ")),
            }),
        }
    }
}

fn matches_name(pattern: &str, name: &str) -> bool {
    let (pattern, from_start) = match pattern.strip_prefix('^') {
        // Docker's names begin with a slash inside.
        Some(rest) => (rest.strip_prefix('/').unwrap_or(rest), true),
        None => (pattern.strip_prefix('/').unwrap_or(pattern), false),
    };
    let (pattern, to_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    match (from_start, to_end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(given: &[&str]) -> Result<Filters, FilterError> {
        let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&given, &["name", "label", "label!", "status", "dangling"])
    }

    #[test]
    fn one_value_of_a_key_is_enough_and_every_key_must_fit() {
        let some = filters(&["name=web", "name=db"]).unwrap();
        assert!(some.fits_name("web-1") && some.fits_name("mydb") && !some.fits_name("cache"));
        assert!(filters(&[]).unwrap().fits_name("anything"));
        let status = filters(&["status=exited", "status=created"]).unwrap();
        assert!(status.fits("status", |value| value == "created"));
        assert!(!status.fits("status", |value| value == "running"));
    }

    #[test]
    fn names_fit_in_part_or_at_an_end() {
        for (pattern, name, fits) in [
            ("eb", "web", true),
            ("^web$", "web", true),
            ("^/web$", "web", true),
            ("^web$", "web2", false),
            ("^eb", "web", false),
            ("b$", "web", true),
        ] {
            assert_eq!(matches_name(pattern, name), fits, "{pattern}");
        }
    }

    #[test]
    fn labels_must_all_fit() {
        let labels =
            BTreeMap::from([("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        for (given, fits) in [
            (&["label=a"][..], true),
            (&["label=a=1", "label=b"], true),
            (&["label=a=2"], false),
            (&["label=a", "label=c"], false),
            (&["label!=c"], true),
            (&["label!=a=1"], false),
        ] {
            assert_eq!(filters(given).unwrap().fits_labels(&labels), fits, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for (given, words) in [
            ("name", "bad format of filter \"name\" (expected name=value)"),
            (
                "bogus=1",
                "invalid filter \"bogus\"; there are name, label, label!, status, dangling",
            ),
        ] {
            assert_eq!(filters(&[given]).unwrap_err().to_string(), words);
        }
        let error = filters(&["dangling=maybe"]).unwrap().truth("dangling").unwrap_err();
        assert_eq!(error.to_string(), "invalid filter dangling=maybe: expected true or false");
        assert_eq!(filters(&["dangling=1"]).unwrap().truth("dangling"), Ok(Some(true)));
        let error = filters(&["status=gone"]).unwrap().check_words("status", &["a", "b"]);
        assert_eq!(error.unwrap_err().to_string(), "invalid filter status=gone: expected a, b");
    }
}
