//! Flag values that are lists of options: `PATH,ro,engine=uring`.

use std::str::FromStr;

use thiserror::Error;

use crate::size;

/// What's wrong with a list of options.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum OptionError {
    /// There's no such option.
    #[error("unknown option {key:?}; the options are {known}")]
    Unknown {
        /// What was given.
        key: String,
        /// All that there are.
        known: &'static str,
    },
    /// An option that needs a value has none.
    #[error("option {0:?} needs a value: {0}=...")]
    NoValue(String),
    /// An option that takes no value has one.
    #[error("option {0:?} takes no value")]
    UnexpectedValue(String),
    /// An option is there twice.
    #[error("option {0:?} is given twice")]
    Repeated(String),
    /// An option that's required isn't there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An option's value is malformed.
    #[error("{key}={value}: {reason}")]
    BadValue {
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// What's wrong with it.
        reason: String,
    },
}

/// One option of a list: a key, and a value if there's an equals sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListOption {
    key: String,
    value: Option<String>,
}

impl ListOption {
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The text of a value that's required.
    pub(crate) fn text(self) -> Result<String, OptionError> {
        match self.value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(OptionError::NoValue(self.key)),
        }
    }

    /// A value of the type that's wanted.
    pub(crate) fn parse<T: FromStr>(self) -> Result<T, OptionError>
    where
        T::Err: ToString,
    {
        self.parse_with(|value| value.parse::<T>().map_err(|error| error.to_string()))
    }

    /// A rate in tokens per second, at least 1.
    pub(crate) fn rate(self) -> Result<u64, OptionError> {
        self.parse_with(|value| {
            value
                .parse()
                .map_err(|error: std::num::ParseIntError| error.to_string())
                .and_then(positive)
        })
    }

    /// A rate in bytes per second, at least 1.
    pub(crate) fn byte_rate(self) -> Result<u64, OptionError> {
        self.parse_with(|value| {
            size::parse(value).map_err(|error| error.to_string()).and_then(positive)
        })
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(self, words: &[(&str, T)]) -> Result<T, OptionError> {
        self.parse_with(|value| {
            let found = words.iter().find(|(word, _)| *word == value);
            found.map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("expected {}", words.join(" or "))
            })
        })
    }

    /// Nothing but the key.
    pub(crate) fn flag(self) -> Result<bool, OptionError> {
        match self.value {
            None => Ok(true),
            Some(_) => Err(OptionError::UnexpectedValue(self.key)),
        }
    }

    /// The error for a key that nobody asked for.
    pub(crate) fn unknown(self, known: &'static str) -> OptionError {
        OptionError::Unknown { key: self.key, known }
    }

    fn parse_with<T>(self, read: impl Fn(&str) -> Result<T, String>) -> Result<T, OptionError> {
        let key = self.key.clone();
        let value = self.text()?;
        read(&value).map_err(|reason| OptionError::BadValue { key, value, reason })
    }
}

/// Reads `key=value,key,…`.
pub(crate) fn parse_list(text: &str) -> Result<Vec<ListOption>, OptionError> {
    to_options(split(text))
}

/// Reads `FIRST,key=value,key,…`, where the first part is a value of its own.
pub(crate) fn parse_with_first(text: &str) -> Result<(String, Vec<ListOption>), OptionError> {
    let mut parts = split(text);
    let first = parts.remove(0);
    Ok((first, to_options(parts)?))
}

fn to_options(parts: Vec<String>) -> Result<Vec<ListOption>, OptionError> {
    let mut options: Vec<ListOption> = Vec::with_capacity(parts.len());
    for part in parts {
        let option = match part.split_once('=') {
            Some((key, value)) => ListOption { key: key.to_owned(), value: Some(value.to_owned()) },
            None => ListOption { key: part, value: None },
        };
        if options.iter().any(|earlier| earlier.key == option.key) {
            return Err(OptionError::Repeated(option.key));
        }
        options.push(option);
    }
    Ok(options)
}

/// Splits at commas; two in a row are one that belongs to the text, as in QEMU's options. Never
/// empty.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let ends_part = char == ',' && chars.next_if_eq(&',').is_none();
        match parts.last_mut() {
            Some(part) if !ends_part => part.push(char),
            _ => parts.push(String::new()),
        }
    }
    parts
}

fn positive(rate: u64) -> Result<u64, String> {
    if rate == 0 { Err("a limit is at least 1".to_owned()) } else { Ok(rate) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(text: &str) -> ListOption {
        parse_list(text).unwrap().remove(0)
    }

    #[test]
    fn two_commas_are_one_in_the_text() {
        assert_eq!(split("a,,b,c"), ["a,b", "c"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split("a,"), ["a", ""]);
        assert_eq!(split(",,,a"), [",", "a"]);
    }

    #[test]
    fn first_part_is_taken_as_it_is() {
        let (first, options) = parse_with_first("a=b.img,ro").unwrap();
        assert_eq!((first.as_str(), options.len()), ("a=b.img", 1));
        assert_eq!(options[0].clone().flag(), Ok(true));
    }

    #[test]
    fn values_are_checked_against_their_keys() {
        assert_eq!(option("iops=10").parse::<u64>(), Ok(10));
        assert_eq!(option("bw=1M").byte_rate(), Ok(1 << 20));
        assert_eq!(option("a=b=c").text(), Ok("b=c".to_owned()));
        assert_eq!(option("iops").text(), Err(OptionError::NoValue("iops".to_owned())));
        assert_eq!(option("iops=").text(), Err(OptionError::NoValue("iops".to_owned())));
        assert_eq!(option("ro=1").flag(), Err(OptionError::UnexpectedValue("ro".to_owned())));
        let error = option("engine=x").word(&[("sync", 1), ("uring", 2)]).unwrap_err();
        assert_eq!(error.to_string(), "engine=x: expected sync or uring");
        let error = option("iops=x").parse::<u64>().unwrap_err();
        assert_eq!(error.to_string(), "iops=x: invalid digit found in string");
    }

    #[test]
    fn key_given_twice_is_refused() {
        assert_eq!(parse_list("a=1,a=2"), Err(OptionError::Repeated("a".to_owned())));
    }
}
