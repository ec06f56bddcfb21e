//! YAML as a tree that remembers where each value stands. Anchors, tags and several documents are refused: a
//! configuration should read the same from top to bottom.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::Problem;

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Value,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text as written; `is_plain` when without quotes, so that `~` or an empty value is null.
    Scalar {
        text: String,
        is_plain: bool,
    },
    Sequence(Vec<Node>),
    /// Keys with their nodes, duplicates included, in file order.
    Mapping(Vec<(String, Node, Node)>),
}

impl Node {
    /// Whether this is nothing at all: an empty value, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, is_plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What this is, for messages.
    pub(crate) fn noun(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a section",
        }
    }
}

/// Reads one document. An empty file is an empty section.
///
/// # Errors
/// The first syntax error; nothing after it can be trusted.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Node, Problem> {
    let mut builder = Builder { file, events: Parser::new_from_str(text) };
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd => return Ok(Node { line: 1, column: 1, value: Value::Mapping(Vec::new()) }),
            event => {
                let root = builder.node(event, span)?;
                return match (builder.next()?, builder.next()?.0) {
                    ((Event::DocumentEnd, _), Event::StreamEnd) => Ok(root),
                    ((_, span), _) => {
                        Err(builder.problem(span, "a second document; write everything in one"))
                    }
                };
            }
        }
    }
}

struct Builder<'a> {
    file: &'a Path,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Builder<'a> {
    fn problem(&self, span: Span, message: &str) -> Problem {
        Problem::new(self.file, span.start.line(), span.start.col() + 1, message)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => Err(Problem::new(self.file, e.marker().line(), e.marker().col() + 1, e.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Problem> {
        let value = match event {
            Event::Scalar(text, style, 0, None) => {
                Value::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(0, None) => self.sequence()?,
            Event::MappingStart(0, None) => self.mapping()?,
            Event::StreamEnd => return Err(self.problem(span, "the file ends in the middle of a value")),
            Event::Nothing
            | Event::StreamStart
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => {
                return Err(
                    self.problem(span, "anchors, aliases and tags are not used here; write the value out")
                );
            }
        };
        Ok(Node { line: span.start.line(), column: span.start.col() + 1, value })
    }

    fn sequence(&mut self) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, Problem> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Mapping(entries));
            }
            let key = self.node(event, span)?;
            let Value::Scalar { text, .. } = &key.value else {
                return Err(self.problem(span, "a key must be a single value"));
            };
            let text = text.clone();
            let (event, span) = self.next()?;
            entries.push((text, key, self.node(event, span)?));
        }
    }
}
