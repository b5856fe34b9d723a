//! `.dockerignore`: which files of a context a build doesn't see.

use globset::{GlobBuilder, GlobMatcher};

/// The largest file that's read, in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Patterns in order; the last one that matches decides.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<(GlobMatcher, bool)>,
    /// Whether a directory that's ignored may have a file that isn't.
    has_exceptions: bool,
}

impl Ignore {
    /// Reads patterns, one a line; `#` begins a comment, `!` an exception.
    ///
    /// # Errors
    /// The number of the line that is no pattern, counted from 1, and why.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut ignore = Self::default();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, ignored) = match line.strip_prefix('!') {
                Some(pattern) => (pattern.trim(), false),
                None => (line, true),
            };
            let pattern = clean(pattern);
            if pattern.is_empty() {
                continue;
            }
            let glob = GlobBuilder::new(&pattern).literal_separator(true).build();
            let glob = glob.map_err(|error| (index + 1, error.kind().to_string()))?;
            ignore.has_exceptions |= !ignored;
            ignore.patterns.push((glob.compile_matcher(), ignored));
        }
        Ok(ignore)
    }

    /// Tells whether a path, relative to the context, is ignored: by itself, or with a directory
    /// that it's in.
    pub(super) fn is_ignored(&self, path: &str) -> bool {
        let mut ignored = false;
        for (glob, ignores) in &self.patterns {
            if *ignores != ignored && prefixes(path).any(|prefix| glob.is_match(prefix)) {
                ignored = *ignores;
            }
        }
        ignored
    }

    /// Tells whether nothing below an ignored directory can be seen either.
    pub(super) fn hides_all_below(&self) -> bool {
        !self.has_exceptions
    }
}

/// A path and the directories that it's in.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end])
}

/// Makes a pattern relative, without `.` and `..`.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_pattern_that_matches_decides() {
        let ignore =
            Ignore::parse("# all but the readme\n*.md\n!README.md\n/build/\n**/*.o\na?c\n")
                .unwrap();
        for (path, ignored) in [
            ("x.md", true),
            ("README.md", false),
            ("docs/x.md", false),
            ("build", true),
            ("build/deep/file", true),
            ("src/build", false),
            ("a.o", true),
            ("src/deep/a.o", true),
            ("abc", true),
            ("a/c", false),
        ] {
            assert_eq!(ignore.is_ignored(path), ignored, "{path}");
        }
        let ignore = Ignore::parse("*\n!keep/this\n").unwrap();
        assert!(!ignore.is_ignored("keep/this") && ignore.is_ignored("keep/that"));
        assert!(!ignore.hides_all_below());
        assert!(Ignore::parse("").unwrap().hides_all_below());
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        assert_eq!(Ignore::parse("ok\n[a\n").unwrap_err().0, 2);
        assert!(Ignore::parse(&"{a,".repeat(200)).is_err());
    }
}
