//! The data: one JSON value of bounded size.

use serde_json::{Map, Value};

/// How many bytes of data a service holds unless it is told otherwise.
pub const DEFAULT_STORE_LIMIT: usize = 51200;

/// Why the data can't be changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MmdsStoreError {
    /// There is nothing to patch yet.
    #[error("The MMDS data store is not initialized.")]
    NotInitialized,
    /// The data would exceed its limit.
    #[error("the metadata would take {size_bytes} bytes, and {limit_bytes} are allowed")]
    TooLarge {
        /// What it would take as JSON without white space.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

/// Why a path has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LookupError {
    /// There is no such path.
    NotFound,
    /// Only objects and strings can be written as plain text.
    NoPlainText,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The value as JSON.
    Json,
    /// As EC2's service does: a string as it is, an object as its keys, one a line, those of
    /// objects with a `/` behind them.
    PlainText,
}

/// The data and its limit.
#[derive(Debug)]
pub(super) struct Store {
    value: Value,
    initialized: bool,
    limit_bytes: usize,
}

impl Store {
    /// Creates an empty store.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { value: Value::Null, initialized: false, limit_bytes }
    }

    /// Returns the data: null until there is some.
    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// Replaces the data.
    ///
    /// # Errors
    /// [`MmdsStoreError::TooLarge`].
    pub(super) fn put(&mut self, value: Value) -> Result<(), MmdsStoreError> {
        let (size_bytes, limit_bytes) = (json_size(&value), self.limit_bytes);
        if size_bytes > limit_bytes {
            return Err(MmdsStoreError::TooLarge { size_bytes, limit_bytes });
        }
        self.value = value;
        self.initialized = true;
        Ok(())
    }

    /// Changes the data by a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// [`MmdsStoreError`].
    pub(super) fn patch(&mut self, patch: &Value) -> Result<(), MmdsStoreError> {
        if !self.initialized {
            return Err(MmdsStoreError::NotInitialized);
        }
        let mut value = self.value.clone();
        merge(&mut value, patch);
        self.put(value)
    }

    /// Writes what lies at `path`, a JSON pointer (RFC 6901) that may end in `/`.
    ///
    /// # Errors
    /// [`LookupError`].
    pub(super) fn look_up(&self, path: &str, format: Format) -> Result<String, LookupError> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let value = self.value.pointer(path).ok_or(LookupError::NotFound)?;
        match (format, value) {
            (Format::Json, value) => Ok(value.to_string()),
            (Format::PlainText, Value::Object(object)) => Ok(list(object)),
            (Format::PlainText, Value::String(string)) => Ok(string.clone()),
            (Format::PlainText, _) => Err(LookupError::NoPlainText),
        }
    }
}

fn list(object: &Map<String, Value>) -> String {
    let keys = object
        .iter()
        .map(|(key, value)| if value.is_object() { format!("{key}/") } else { key.clone() });
    keys.collect::<Vec<_>>().join("\n")
}

/// Returns the length of `value` as JSON without white space, without writing it anywhere.
fn json_size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        // A value's keys are strings and counting doesn't fail; if it did, nothing would fit.
        Err(_) => usize::MAX,
    }
}

/// Applies `patch` to `target` (RFC 7396 §2). It goes as deep as `patch` does, which a JSON parser
/// made, and which bounds that.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store(value: Value) -> Store {
        let mut store = Store::new(DEFAULT_STORE_LIMIT);
        store.put(value).unwrap();
        store
    }

    #[test]
    fn merge_patch_does_what_the_rfc_lists() {
        // RFC 7396, appendix A.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut store = store(target);
            store.patch(&patch).unwrap();
            assert_eq!(*store.value(), result, "{patch}");
        }
    }

    #[test]
    fn patch_needs_data_first_and_null_is_data() {
        let mut store = Store::new(100);
        let error = store.patch(&json!({})).unwrap_err();
        assert_eq!(error.to_string(), "The MMDS data store is not initialized.");
        store.put(Value::Null).unwrap();
        store.patch(&json!({"a": 1})).unwrap();
        assert_eq!(*store.value(), json!({"a": 1}));
    }

    #[test]
    fn data_fits_its_limit_to_the_byte_and_stays_when_a_change_does_not() {
        let mut store = Store::new(10);
        store.put(json!({"a": "bc"})).unwrap();
        let too_large = Err(MmdsStoreError::TooLarge { size_bytes: 11, limit_bytes: 10 });
        assert_eq!(store.put(json!({"a": "bcd"})), too_large);
        assert_eq!(store.patch(&json!({"a": "bcd"})), too_large);
        assert_eq!(*store.value(), json!({"a": "bc"}));
        store.patch(&json!({"b": 1, "a": null})).unwrap();
    }

    #[test]
    fn paths_lead_to_json_and_to_plain_text() {
        let store = store(json!({
            "latest": {"meta-data": {"id": "i-1", "tags": {"a": "b"}, "cpus": 4}},
            "list": ["x", false, null, 1.5], "a/b": "slash",
        }));
        let json = |path| store.look_up(path, Format::Json).unwrap();
        let text = |path| store.look_up(path, Format::PlainText);
        assert_eq!(json("/latest/meta-data/tags"), r#"{"a":"b"}"#);
        assert_eq!(json("/latest/meta-data/id"), r#""i-1""#);
        assert_eq!(json("/list"), r#"["x",false,null,1.5]"#);
        assert_eq!(text("/").unwrap(), "a/b\nlatest/\nlist");
        assert_eq!(text("/latest/meta-data/").unwrap(), "cpus\nid\ntags/");
        assert_eq!(text("/latest/meta-data").unwrap(), "cpus\nid\ntags/");
        assert_eq!(text("/list/0").unwrap(), "x");
        assert_eq!(text("/a~1b").unwrap(), "slash");
        for path in ["/list", "/list/1", "/list/2", "/list/3", "/latest/meta-data/cpus"] {
            assert_eq!(text(path), Err(LookupError::NoPlainText), "{path}");
        }
        for path in ["/list/4", "/list/01", "/nothing", "latest", "/latest/meta-data/id/x"] {
            assert_eq!(text(path), Err(LookupError::NotFound), "{path}");
        }
    }

    #[test]
    fn nothing_is_found_in_a_store_without_data_but_its_root() {
        let store = Store::new(10);
        assert_eq!(store.look_up("/", Format::Json).unwrap(), "null");
        assert_eq!(store.look_up("/", Format::PlainText), Err(LookupError::NoPlainText));
        assert_eq!(store.look_up("/a", Format::Json), Err(LookupError::NotFound));
    }
}
