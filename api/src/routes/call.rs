//! One request on a route that's been found: its identifier and its body.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use super::Method;
use crate::error::ApiError;
use crate::strict;

/// The longest identifier of a device in bytes.
const MAX_ID_BYTES: usize = 64;

/// What a route's reader is given.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// The identifier in the path; empty where the path has none.
    pub(super) id: &'a str,
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// Reads the body, and holds it to have some keys.
    pub(super) fn read<T: DeserializeOwned>(&self, required: &[&str]) -> Result<T, ApiError> {
        let value = strict::from_slice(self.body).map_err(malformed)?;
        self.check_keys(required)?;
        Ok(value)
    }

    /// Reads the body, or what stands for none.
    pub(super) fn read_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.read(&[]) }
    }

    /// Reads the body, and holds the identifier in it to be the path's.
    pub(super) fn read_with_id<T: DeserializeOwned>(
        &self,
        required: &[&str],
        id: fn(&T) -> &str,
    ) -> Result<T, ApiError> {
        let value = self.read(required)?;
        if id(&value) == self.id {
            return Ok(value);
        }
        Err(ApiError::bad_request(format!(
            "The id from the path, {:?}, does not match the id from the body, {:?}.",
            self.id,
            shortened(id(&value)),
        )))
    }

    /// Reads the body as a JSON object of any keys.
    pub(super) fn read_object(&self) -> Result<Value, ApiError> {
        self.read::<Map<String, Value>>(&[]).map(Value::Object)
    }

    /// The body's types have defaults for keys that a configuration file may leave out, and a
    /// request may not. Of keys with a `|` between them, one is enough.
    fn check_keys(&self, required: &[&str]) -> Result<(), ApiError> {
        if required.is_empty() {
            return Ok(());
        }
        let keys: Keys = serde_json::from_slice(self.body).map_err(malformed)?;
        let is_absent = |key: &&&str| !key.split('|').any(|key| keys.0.contains_key(key));
        match required.iter().find(is_absent) {
            None => Ok(()),
            Some(key) => {
                let key = key.split('|').next().unwrap_or(key);
                Err(malformed(format_args!("missing field `{key}`")))
            }
        }
    }
}

/// The keys of an object that have a value other than `null`.
struct Keys(HashMap<String, IgnoredAny>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = HashMap::<String, Option<IgnoredAny>>::deserialize(deserializer)?;
        Ok(Self(all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()))
    }
}

fn malformed(problem: impl fmt::Display) -> ApiError {
    ApiError::bad_request(format!("The body of the request is not what it should be: {problem}."))
}

/// Checks an identifier in a path. Ours may have hyphens, as those of a configuration file.
pub(super) fn check_id(id: &str, allows_hyphen: bool) -> Result<(), ApiError> {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (allows_hyphen && byte == b'-');
    if id.is_empty() {
        return Err(ApiError::bad_request("The ID cannot be empty."));
    }
    if id.len() > MAX_ID_BYTES || !id.bytes().all(is_allowed) {
        return Err(ApiError::bad_request(format!(
            "The ID {:?} is none: 1 to {MAX_ID_BYTES} letters of ASCII, digits and underscores{}.",
            shortened(id),
            if allows_hyphen { " and hyphens" } else { "" },
        )));
    }
    Ok(())
}

/// What an error shows of a text that may be long.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_ID_BYTES).collect()
}
