//! Words as a tree.

use std::collections::VecDeque;

use serde_json::Value;

use super::lexer::{self, Piece, Token};
use super::{MAX_DEPTH, TemplateError};

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// Prints its value, unless it sets a variable.
    Print(Pipeline),
    If(Branches),
    With(Branches),
    Range {
        over: Pipeline,
        body: Vec<Node>,
        /// For when there's nothing.
        otherwise: Vec<Node>,
    },
}

/// What's done at the first pipeline that's true.
#[derive(Clone, Debug)]
pub(super) struct Branches {
    pub(super) branches: Vec<(Pipeline, Vec<Node>)>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each given the value of the one before as its last argument.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipeline {
    /// The variables that it sets: one, or key and value of a `range`.
    pub(super) variables: Vec<String>,
    /// They're new (`:=`).
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// Something that has a value, and the fields that are looked up in it one after the other.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Group(Pipeline),
    Function(String),
}

/// What ends a list of nodes.
enum End {
    /// The template's end.
    Text,
    /// `{{end}}`.
    Block,
    /// `{{else}}` with what's after it.
    Else(VecDeque<Token>),
}

/// Reads a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: lexer::split(text)?.into() };
    match parser.nodes(0)? {
        (nodes, End::Text) => Ok(nodes),
        (_, End::Block) => Err(unexpected("{{end}}", "a template")),
        (_, End::Else(_)) => Err(unexpected("{{else}}", "a template")),
    }
}

fn unexpected(found: impl Into<String>, place: &'static str) -> TemplateError {
    TemplateError::Unexpected { found: found.into(), place }
}

struct Parser {
    pieces: VecDeque<Piece>,
}

impl Parser {
    /// Reads to the end of a block.
    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, End), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let mut tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => VecDeque::from(tokens),
            };
            match keyword(&tokens) {
                Some("end") if tokens.len() == 1 => return Ok((nodes, End::Block)),
                Some("end") => return Err(unexpected(tokens[1].shown(), "{{end}}")),
                Some("else") => {
                    tokens.pop_front();
                    return Ok((nodes, End::Else(tokens)));
                }
                Some("if") => {
                    tokens.pop_front();
                    nodes.push(Node::If(self.branches("if", tokens, depth)?));
                }
                Some("with") => {
                    tokens.pop_front();
                    nodes.push(Node::With(self.branches("with", tokens, depth)?));
                }
                Some("range") => {
                    tokens.pop_front();
                    nodes.push(self.range(tokens, depth)?);
                }
                Some(word @ ("define" | "template" | "block" | "break" | "continue")) => {
                    return Err(unexpected(word, "an action; it isn't supported"));
                }
                _ => nodes.push(Node::Print(pipeline(tokens, depth)?)),
            }
        }
        Ok((nodes, End::Text))
    }

    fn branches(
        &mut self,
        word: &'static str,
        mut tokens: VecDeque<Token>,
        depth: usize,
    ) -> Result<Branches, TemplateError> {
        let mut branches = Vec::new();
        loop {
            let condition = pipeline(tokens, depth)?;
            let (body, end) = self.nodes(depth + 1)?;
            branches.push((condition, body));
            tokens = match end {
                End::Text => return Err(TemplateError::NoEnd(word)),
                End::Block => return Ok(Branches { branches, otherwise: Vec::new() }),
                End::Else(tokens) => tokens,
            };
            if tokens.is_empty() {
                let otherwise = self.otherwise(word, depth)?;
                return Ok(Branches { branches, otherwise });
            }
            match keyword(&tokens) {
                Some(again) if again == word => drop(tokens.pop_front()),
                _ => return Err(unexpected(tokens[0].shown(), "{{else}}")),
            }
        }
    }

    fn otherwise(&mut self, word: &'static str, depth: usize) -> Result<Vec<Node>, TemplateError> {
        match self.nodes(depth + 1)? {
            (nodes, End::Block) => Ok(nodes),
            (_, End::Text) => Err(TemplateError::NoEnd(word)),
            (_, End::Else(_)) => Err(unexpected("{{else}}", "what follows an {{else}}")),
        }
    }

    fn range(&mut self, tokens: VecDeque<Token>, depth: usize) -> Result<Node, TemplateError> {
        let over = pipeline(tokens, depth)?;
        let (body, end) = self.nodes(depth + 1)?;
        let otherwise = match end {
            End::Block => Vec::new(),
            End::Text => return Err(TemplateError::NoEnd("range")),
            End::Else(tokens) => match tokens.front() {
                None => self.otherwise("range", depth)?,
                Some(token) => return Err(unexpected(token.shown(), "{{else}}")),
            },
        };
        Ok(Node::Range { over, body, otherwise })
    }
}

fn keyword(tokens: &VecDeque<Token>) -> Option<&str> {
    match tokens.front() {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

/// Reads all that's left of an action as a pipeline.
fn pipeline(mut tokens: VecDeque<Token>, depth: usize) -> Result<Pipeline, TemplateError> {
    let pipeline = read_pipeline(&mut tokens, depth)?;
    match tokens.front() {
        None => Ok(pipeline),
        Some(token) => Err(unexpected(token.shown(), "a pipeline")),
    }
}

/// Reads a pipeline, up to what can't belong to it.
fn read_pipeline(tokens: &mut VecDeque<Token>, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut pipeline = variables(tokens);
    loop {
        let mut command = Vec::new();
        while let Some(operand) = operand(tokens, depth)? {
            command.push(operand);
        }
        if command.is_empty() {
            return Err(match tokens.front() {
                Some(token) => unexpected(token.shown(), "a command"),
                None => TemplateError::Malformed("missing value for command"),
            });
        }
        pipeline.commands.push(command);
        if tokens.front() != Some(&Token::Mark('|')) {
            return Ok(pipeline);
        }
        tokens.pop_front();
    }
}

/// Reads the variables that a pipeline sets, if it sets any.
fn variables(tokens: &mut VecDeque<Token>) -> Pipeline {
    let shape: Vec<_> = tokens.iter().take(4).collect();
    let (variables, mark) = match shape.as_slice() {
        [Token::Variable(one), Token::Mark(mark @ (':' | '=')), ..] => (vec![one.clone()], *mark),
        [Token::Variable(key), Token::Mark(','), Token::Variable(value), Token::Mark(':')] => {
            (vec![key.clone(), value.clone()], ':')
        }
        _ => return Pipeline::default(),
    };
    tokens.drain(..variables.len() * 2);
    Pipeline { variables, declares: mark == ':', commands: Vec::new() }
}

/// Reads an operand, if there's one.
fn operand(tokens: &mut VecDeque<Token>, depth: usize) -> Result<Option<Operand>, TemplateError> {
    let Some(token) = tokens.front() else { return Ok(None) };
    let (base, first) = match token {
        Token::Field { name, .. } => (Base::Dot, Some(name.clone()).filter(|it| !it.is_empty())),
        Token::Variable(name) => (Base::Variable(name.clone()), None),
        Token::Text(text) => (Base::Literal(text.as_str().into()), None),
        Token::Number(number) => (Base::Literal(Value::Number(number.clone())), None),
        Token::Word(word) => (word_base(word), None),
        Token::Mark('(') => {
            tokens.pop_front();
            let group = read_pipeline(tokens, depth + 1)?;
            if tokens.front() != Some(&Token::Close) {
                return Err(TemplateError::Malformed("unclosed left paren"));
            }
            (Base::Group(group), None)
        }
        Token::Mark(_) | Token::Close => return Ok(None),
    };
    tokens.pop_front();
    let mut fields: Vec<_> = first.into_iter().collect();
    while let Some(Token::Field { name, spaced: false }) = tokens.front() {
        if name.is_empty() {
            return Err(unexpected(".", "a field's name"));
        }
        fields.push(name.clone());
        tokens.pop_front();
    }
    Ok(Some(Operand { base, fields }))
}

fn word_base(word: &str) -> Base {
    match word {
        "true" => Base::Literal(Value::Bool(true)),
        "false" => Base::Literal(Value::Bool(false)),
        "nil" => Base::Literal(Value::Null),
        name => Base::Function(name.to_owned()),
    }
}
