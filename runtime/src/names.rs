//! Names of containers: those that are made up, and what a name may be.

use crate::RuntimeError;
use crate::files::random_hex;

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm",
    "candid", "careful", "cheerful", "civil", "clever", "cosy", "crisp", "curious", "daring",
    "deft", "eager", "early", "earnest", "easy", "fair", "fleet", "fluent", "frank", "gentle",
    "glad", "golden", "grand", "handy", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "lively", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble",
    "patient", "plucky", "polite", "proud", "quick", "quiet", "ready", "silver", "steady", "sunny",
    "swift", "tidy", "vivid", "warm", "witty",
];

/// People to whom computing, and what runs on it, owes something.
const SURNAMES: [&str; 64] = [
    "abel",
    "adleman",
    "allen",
    "ampere",
    "babbage",
    "bartik",
    "berners",
    "boole",
    "borg",
    "brooks",
    "cerf",
    "church",
    "clarke",
    "codd",
    "conway",
    "cray",
    "curie",
    "dahl",
    "diffie",
    "dijkstra",
    "engelbart",
    "erdos",
    "euler",
    "feinler",
    "floyd",
    "gauss",
    "goldberg",
    "gray",
    "hamilton",
    "hamming",
    "hellman",
    "hilbert",
    "hoare",
    "hopper",
    "huffman",
    "iverson",
    "johnson",
    "kay",
    "kilby",
    "knuth",
    "lamport",
    "leibniz",
    "liskov",
    "lovelace",
    "mccarthy",
    "milner",
    "naur",
    "neumann",
    "noether",
    "perlman",
    "postel",
    "ritchie",
    "rivest",
    "shannon",
    "sinclair",
    "strachey",
    "tarjan",
    "thompson",
    "torvalds",
    "turing",
    "wilkes",
    "wirth",
    "yao",
    "zuse",
];

/// The longest name, in bytes: it's a host name on the container's networks.
const MAX_NAME_BYTES: usize = 253;

/// Makes up a name; after a few `attempts` with a number behind it, as most are taken.
pub(crate) fn generate(attempt: u32) -> std::io::Result<String> {
    let random = u64::from_str_radix(&random_hex(7)?, 16).unwrap_or_default();
    let pick = |words: &[&'static str; 64], shift: u32| {
        let index = usize::try_from((random >> shift) % 64).unwrap_or_default();
        words.get(index).copied().unwrap_or_default()
    };
    let name = format!("{}_{}", pick(&ADJECTIVES, 0), pick(&SURNAMES, 6));
    if attempt < 4 { Ok(name) } else { Ok(format!("{name}{}", (random >> 12) % 1000)) }
}

/// Whether a container or volume can have the name: Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn check(name: &str, what: &str) -> Result<(), RuntimeError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && (2..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(RuntimeError::invalid(format!(
        "invalid {what} name ({name}): letters, digits, and then _ . - too, two at least"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_valid_and_differ() {
        let names: std::collections::BTreeSet<_> =
            (0..100).map(|attempt| generate(attempt).unwrap()).collect();
        assert!(names.len() > 80, "{names:?}");
        for name in names {
            check(&name, "container").unwrap();
        }
    }

    #[test]
    fn names_that_are_paths_or_flags_are_refused() {
        for name in ["", "a", "-a", ".a", "a/b", "..", "a b", "a\n", "ä1", "_a"] {
            check(name, "container").unwrap_err();
        }
        for name in ["a1", "web-1", "My_Name.x"] {
            check(name, "container").unwrap();
        }
    }
}
