//! Reads JSON and remembers where everything stood.
//!
//! `serde_json` forgets positions, and a problem in a machine of three hundred lines is worth little without its line. This
//! reader keeps line and column of every value and every key, keeps duplicate keys (Step Functions rejects them, a map
//! would swallow them), and refuses nesting deeper than [`MAX_DEPTH`] so that a hostile file cannot exhaust the stack.

use std::cell::Cell;

use serde_json::{Map, Number, Value};

/// The deepest nesting that is read. The deepest machine seen in the field has 31 levels.
pub const MAX_DEPTH: usize = 200;

/// A place in a text; both numbers count from 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// The six kinds of JSON.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, as `serde_json` reads it.
    Number(Number),
    /// A string, escapes resolved.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// The members in their order, duplicates included.
    Object(Vec<Member>),
}

/// A member of an object.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where the key begins.
    pub place: Place,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Node,
}

/// Why a text is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where reading stopped.
    pub place: Place,
    /// What was expected or found.
    pub message: String,
}

impl Node {
    /// The word people use for this kind of value.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::String(_) => "a string",
            Kind::Array(_) => "an array",
            Kind::Object(_) => "an object",
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&[Member]> {
        match &self.kind {
            Kind::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The value of a key; the last one when the key is repeated, as parsers do.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_object()?.iter().rev().find(|member| member.key == key).map(|member| &member.value)
    }

    /// The same value without places.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::String(value) => Value::String(value.clone()),
            Kind::Array(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Kind::Object(members) => {
                let mut map = Map::with_capacity(members.len());
                for member in members {
                    map.insert(member.key.clone(), member.value.to_value());
                }
                Value::Object(map)
            }
        }
    }
}

/// Reads one JSON text; anything but white space after it is an error.
pub fn read(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader { bytes: text.as_bytes(), text, at: 0, line: 1, line_start: 0, counted: Cell::new((0, 0)) };
    reader.skip_space();
    let node = reader.value(0)?;
    reader.skip_space();
    if reader.at < reader.bytes.len() {
        return Err(reader.error("unexpected text after the end of the JSON value"));
    }
    Ok(node)
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    line: usize,
    line_start: usize,
    /// How far characters of the current line have been counted, and how many there were: a text of one line would
    /// otherwise take quadratic time.
    counted: Cell<(usize, usize)>,
}

impl Reader<'_> {
    fn place(&self) -> Place {
        // The start of a line is always a character border, and so is `at` wherever a place is asked for.
        let (from, before) = match self.counted.get() {
            (at, column) if at >= self.line_start && at <= self.at => (at, column),
            _ => (self.line_start, 0),
        };
        let column = before + self.text.get(from..self.at).map_or(self.at - from, |part| part.chars().count());
        self.counted.set((self.at, column));
        Place { line: self.line, column: column + 1 }
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { place: self.place(), message: message.into() }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                _ => break,
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let place = self.place();
        let kind = match self.peek() {
            None => return Err(self.error("expected a value, found the end of the text")),
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::String(self.string()?),
            Some(b't') => self.word("true", Kind::Bool(true))?,
            Some(b'f') => self.word("false", Kind::Bool(false))?,
            Some(b'n') => self.word("null", Kind::Null)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => return Err(self.unexpected("a value")),
        };
        Ok(Node { place, kind })
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.error(format!("expected {wanted}, found `{found}`")),
            None => self.error(format!("expected {wanted}, found the end of the text")),
        }
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, SyntaxError> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(kind)
        } else {
            Err(self.error(format!("expected `{word}`")))
        }
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        match serde_json::from_str::<Number>(text) {
            Ok(number) => Ok(Kind::Number(number)),
            Err(_) => {
                self.at = start;
                Err(self.error(format!("`{text}` is not a number in JSON")))
            }
        }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(b'\n') => {
                    self.at = start;
                    return Err(self.error("string without a closing quote"));
                }
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let end = self.at.min(self.bytes.len());
        match self.text.get(start..end).map(serde_json::from_str::<String>) {
            Some(Ok(text)) => Ok(text),
            _ => {
                self.at = start;
                Err(self.error("string with a character or escape that JSON does not allow"))
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Kind::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Kind::Array(items));
                }
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.at += 1;
        let mut members = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Kind::Object(members));
        }
        loop {
            self.skip_space();
            let place = self.place();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("`:`"));
            }
            self.at += 1;
            self.skip_space();
            let value = self.value(depth + 1)?;
            members.push(Member { place, key, value });
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Kind::Object(members));
                }
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line_and_column() {
        let node = read("{\n  \"ä\": [1, true],\n  \"b\": null\n}").unwrap();
        let list = node.get("ä").unwrap();
        assert_eq!(list.place, Place { line: 2, column: 8 });
        assert_eq!(node.get("b").unwrap().place, Place { line: 3, column: 8 });
        assert_eq!(node.to_value(), serde_json::json!({"ä": [1, true], "b": null}));
    }

    #[test]
    fn broken_json_is_refused_where_it_breaks() {
        for (text, line, column) in [
            ("{\"a\": 1,}", 1, 9),
            ("[1 2]", 1, 4),
            ("{\n\"a\" 1}", 2, 5),
            ("\"abc", 1, 1),
            ("1 2", 1, 3),
            ("", 1, 1),
            ("01", 1, 1),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.place, Place { line, column }, "{text}: {}", error.message);
        }
    }

    #[test]
    fn bottomless_nesting_is_refused_and_does_not_overflow() {
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
