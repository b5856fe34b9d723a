//! A template as text and actions, and actions as words.

use super::TemplateError;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// What's printed as it is.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.`, or `.Name` with `spaced` set if a space or the beginning is before it: `.A .B` are two
    /// operands, `.A.B` is one.
    Field {
        name: String,
        spaced: bool,
    },
    /// `$`, or `$name`.
    Variable(String),
    /// A keyword or a function.
    Word(String),
    Text(String),
    Number(serde_json::Number),
    /// `|`, `(`, `,`, `=`; `:=` is `:`.
    Mark(char),
    /// `)`; what follows without a space is a field of it.
    Close,
}

impl Token {
    /// How it's named in an error.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Field { name, .. } => format!(".{name}"),
            Self::Variable(name) => format!("${name}"),
            Self::Word(word) => word.clone(),
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Mark(':') => ":=".to_owned(),
            Self::Mark(mark) => mark.to_string(),
            Self::Close => ")".to_owned(),
        }
    }
}

/// Takes a template apart.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let before = if trims { before.trim_start() } else { before };
        let Some(action) = action else {
            push_text(&mut pieces, before);
            return Ok(pieces);
        };
        let (trims_before, action) = match action.strip_prefix('-') {
            Some(after) if after.starts_with(char::is_whitespace) => (true, after),
            _ => (false, action),
        };
        push_text(&mut pieces, if trims_before { before.trim_end() } else { before });
        let body = match comment_end(action)? {
            Some(after) => after,
            None => action,
        };
        let (tokens, after, trims_after) = Lexer { rest: body }.action()?;
        if comment_end(action)?.is_none() {
            pieces.push(Piece::Action(tokens));
        } else if let Some(token) = tokens.first() {
            return Err(TemplateError::Unexpected { found: token.shown(), place: "a comment" });
        }
        (rest, trims) = (after, trims_after);
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// What follows the comment that an action begins with, if it does.
fn comment_end(action: &str) -> Result<Option<&str>, TemplateError> {
    let Some(comment) = action.trim_start().strip_prefix("/*") else { return Ok(None) };
    match comment.split_once("*/") {
        Some((_, after)) => Ok(Some(after)),
        None => Err(TemplateError::Malformed("unclosed comment")),
    }
}

/// Reads one action.
struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    /// Reads to `}}`; returns the words, what follows, and whether that's to be trimmed.
    fn action(mut self) -> Result<(Vec<Token>, &'a str, bool), TemplateError> {
        let mut tokens = Vec::new();
        loop {
            let trimmed = self.rest.trim_start();
            let spaced = trimmed.len() != self.rest.len() || tokens.is_empty();
            if spaced && let Some(after) = trimmed.strip_prefix("-}}") {
                return Ok((tokens, after, true));
            }
            if let Some(after) = trimmed.strip_prefix("}}") {
                return Ok((tokens, after, false));
            }
            self.rest = trimmed;
            let after_operand = matches!(
                tokens.last(),
                Some(Token::Field { .. } | Token::Variable(_) | Token::Close)
            );
            tokens.push(self.token(spaced || !after_operand)?);
        }
    }

    fn token(&mut self, spaced: bool) -> Result<Token, TemplateError> {
        let mut chars = self.rest.chars();
        let first = chars.next().ok_or(TemplateError::Unclosed)?;
        let second = chars.next();
        match first {
            '"' => self.quoted().map(Token::Text),
            '`' => self.raw().map(Token::Text),
            '.' if !second.is_some_and(|second| second.is_ascii_digit()) => {
                self.rest = &self.rest[1..];
                Ok(Token::Field { name: self.name(), spaced })
            }
            '$' => {
                self.rest = &self.rest[1..];
                Ok(Token::Variable(self.name()))
            }
            ':' if second == Some('=') => {
                self.rest = &self.rest[2..];
                Ok(Token::Mark(':'))
            }
            '|' | '(' | ',' | '=' => {
                self.rest = &self.rest[1..];
                Ok(Token::Mark(first))
            }
            ')' => {
                self.rest = &self.rest[1..];
                Ok(Token::Close)
            }
            '0'..='9' | '-' | '+' | '.' => self.number(),
            _ if is_name(first) => Ok(Token::Word(self.name())),
            _ => Err(TemplateError::Unexpected { found: first.to_string(), place: "an action" }),
        }
    }

    /// Takes letters, digits and underscores, perhaps none.
    fn name(&mut self) -> String {
        let end = self.rest.find(|char| !is_name(char)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    fn number(&mut self) -> Result<Token, TemplateError> {
        let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '+');
        let end = self.rest.find(|char| !is_part(char)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        let number = match text.trim_start_matches('+').parse::<i64>() {
            Ok(whole) => Some(whole.into()),
            Err(_) => text.parse().ok().and_then(serde_json::Number::from_f64),
        };
        self.rest = rest;
        number.map(Token::Number).ok_or_else(|| TemplateError::Unexpected {
            found: text.to_owned(),
            place: "an action, where a number should be",
        })
    }

    fn raw(&mut self) -> Result<String, TemplateError> {
        let (text, rest) = self.rest[1..]
            .split_once('`')
            .ok_or(TemplateError::Malformed("unterminated raw quoted string"))?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn quoted(&mut self) -> Result<String, TemplateError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                '\\' => text.push(match chars.next().map(|(_, escaped)| escaped) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(same @ ('"' | '\\' | '\'')) => same,
                    _ => return Err(TemplateError::Malformed("unknown escape in a quoted string")),
                }),
                '\n' => break,
                char => text.push(char),
            }
        }
        Err(TemplateError::Malformed("unterminated quoted string"))
    }
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}
