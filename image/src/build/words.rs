//! Words of a Dockerfile: split at blanks outside of quotes, and their variables expanded as Docker
//! does (not as a shell: there are no commands and no globs).

/// Splits at blanks that are neither quoted nor escaped. Quotes and escapes stay in the words.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match quote {
            Some(open) => {
                word.push(c);
                if c == escape && open == '"' {
                    word.extend(characters.next());
                } else if c == open {
                    quote = None;
                }
            }
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            None => {
                word.push(c);
                if c == escape {
                    word.extend(characters.next());
                } else if matches!(c, '"' | '\'') {
                    quote = Some(c);
                }
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// How deep `${A:-${B:-…}}` may be nested.
const MAX_DEPTH: u32 = 16;

/// The longest that a word may become, in bytes.
const MAX_EXPANDED_BYTES: usize = 1 << 20;

/// Takes quotes and escapes away and expands `$NAME`, `${NAME}`, `${NAME:-WORD}`, `${NAME:+WORD}`,
/// `${NAME:?WORD}` and the same without the colon.
///
/// # Errors
/// What's wrong with the word.
pub(super) fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expander =
        Expander { characters: word.chars().collect(), next: 0, escape, lookup, depth: 0 };
    let expanded = expander.until(None)?;
    match expanded.len() {
        0..=MAX_EXPANDED_BYTES => Ok(expanded),
        _ => Err("the word becomes too long".to_owned()),
    }
}

/// Expands variables only: for here-documents, whose quotes are text.
///
/// # Errors
/// What's wrong with the text.
pub(super) fn expand_document(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expander =
        Expander { characters: text.chars().collect(), next: 0, escape, lookup, depth: 0 };
    let mut result = String::new();
    while let Some(c) = expander.take() {
        match c {
            '$' => result += &expander.variable()?,
            c if c == escape && matches!(expander.peek(), Some('$')) => {
                result.extend(expander.take());
            }
            c => result.push(c),
        }
        if result.len() > MAX_EXPANDED_BYTES {
            return Err("the document becomes too long".to_owned());
        }
    }
    Ok(result)
}

struct Expander<'a> {
    characters: Vec<char>,
    next: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: u32,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.next).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.next += 1;
        Some(c)
    }

    /// Expands up to `end`, which is taken too, or to the end of the word.
    fn until(&mut self, end: Option<char>) -> Result<String, String> {
        let mut result = String::new();
        loop {
            let Some(c) = self.take() else {
                return match end {
                    Some(end) => Err(format!("`{end}` is missing")),
                    None => Ok(result),
                };
            };
            match c {
                c if Some(c) == end => return Ok(result),
                '\'' => loop {
                    match self.take() {
                        Some('\'') => break,
                        Some(c) => result.push(c),
                        None => return Err("a single quote isn't closed".to_owned()),
                    }
                },
                '"' => self.double_quoted(&mut result)?,
                '$' => result += &self.variable()?,
                c if c == self.escape => result.extend(self.take()),
                c => result.push(c),
            }
        }
    }

    fn double_quoted(&mut self, result: &mut String) -> Result<(), String> {
        loop {
            match self.take() {
                Some('"') => return Ok(()),
                Some('$') => *result += &self.variable()?,
                Some(c) if c == self.escape => match self.take() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        result.push(next);
                    }
                    Some(next) => result.extend([c, next]),
                    None => return Err("a double quote isn't closed".to_owned()),
                },
                Some(c) => result.push(c),
                None => return Err("a double quote isn't closed".to_owned()),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            if name.is_empty() && c.is_ascii_digit() {
                break;
            }
            name.push(c);
            self.next += 1;
        }
        name
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match name.is_empty() {
                true => "$".to_owned(),
                false => (self.lookup)(&name).unwrap_or_default(),
            });
        }
        self.next += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("`${` isn't followed by a name".to_owned());
        }
        let value = (self.lookup)(&name);
        let mut operator = self.take().ok_or("`}` is missing")?;
        if operator == '}' {
            return Ok(value.unwrap_or_default());
        }
        let mut value = value;
        if operator == ':' {
            value = value.filter(|value| !value.is_empty());
            operator = self.take().ok_or("`}` is missing")?;
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("variables are nested too deeply".to_owned());
        }
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        match (operator, value) {
            ('-', Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', Some(value)) => Ok(value),
            ('?', None) => Err(format!("{name}: {word}")),
            (other, _) => Err(format!("`${{{name}{other}…}}` isn't supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(word: &str) -> Result<String, String> {
        expand(word, '\\', &|name| match name {
            "A" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn words_are_split_at_blanks_outside_of_quotes() {
        let words = split(r#"a="x y" b=c\ d  'e f'g "h\" i" $j"#, '\\');
        assert_eq!(words, [r#"a="x y""#, r"b=c\ d", "'e f'g", r#""h\" i""#, "$j"]);
        assert!(split("  ", '\\').is_empty());
    }

    #[test]
    fn variables_and_quotes_are_expanded_as_docker_does() {
        for (word, result) in [
            ("$A", "value"),
            ("${A}x", "valuex"),
            ("$Ax", ""),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            (r#""$A \" \n""#, r#"value " \n"#),
            (r"a\ b", "a b"),
            ("${NONE:-$A}", "value"),
            ("${NONE-}", ""),
            ("${EMPTY:-x}${EMPTY-y}", "x"),
            ("${A:+${A}!}", "value!"),
            ("${EMPTY:+x}", ""),
            ("100$", "100$"),
            ("$1", "$1"),
        ] {
            assert_eq!(expanded(word).as_deref(), Ok(result), "{word}");
        }
    }

    #[test]
    fn words_that_are_wrong_or_hostile_are_refused() {
        for word in ["${A", "${", "${}", "'a", "\"a", "${A%x}", "${NONE:?must be set}", "\"\\"] {
            assert!(expanded(word).is_err(), "{word}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(1000), "}".repeat(1000));
        assert!(expanded(&deep).is_err());
        let long = "a".repeat(1 << 16);
        let bomb = "$A".repeat(32);
        let result = expand(&bomb, '\\', &|_| Some(long.clone()));
        assert!(result.is_err());
    }

    #[test]
    fn documents_keep_their_quotes() {
        let lookup = |name: &str| (name == "A").then(|| "value".to_owned());
        assert_eq!(
            expand_document("'$A' \"${B:-b}\" \\$A \\n", '\\', &lookup).as_deref(),
            Ok("'value' \"b\" $A \\n")
        );
    }
}
