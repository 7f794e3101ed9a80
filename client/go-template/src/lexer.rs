//! Splits a template into text and the tokens inside `{{ }}`.

use crate::TemplateError;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// Text outside of actions, trim markers already applied.
    Text(String),
    Open,
    Close,
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`
    Variable(String),
    Identifier(String),
    Quoted(String),
    Number(serde_json::Number),
    Bool(bool),
    Nil,
    Pipe,
    Declare,
    Assign,
    Comma,
    LeftParen,
    RightParen,
    Space,
}

/// A token and the line it is on, from 1.
pub(crate) type Located = (Token, usize);

pub(crate) fn tokens(text: &str) -> Result<Vec<Located>, TemplateError> {
    let mut lexer = Lexer {
        rest: text,
        line: 1,
        tokens: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Located>,
}

impl<'a> Lexer<'a> {
    fn error(&self, why: impl Into<String>) -> TemplateError {
        TemplateError::Parse {
            line: self.line,
            why: why.into(),
        }
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn run(&mut self) -> Result<(), TemplateError> {
        let mut trim_left = false;
        loop {
            let end = self.rest.find("{{").unwrap_or(self.rest.len());
            let last = end == self.rest.len();
            let mut text = self.advance(end);
            if trim_left {
                text = text.trim_start();
            }
            if !last {
                self.advance(2);
                let trims = self.rest.starts_with('-')
                    && self.rest[1..].starts_with([' ', '\t', '\n', '\r']);
                if trims {
                    self.advance(1);
                    text = text.trim_end();
                }
            }
            if !text.is_empty() {
                self.push(Token::Text(text.to_owned()));
            }
            if last {
                return Ok(());
            }
            trim_left = self.action()?;
        }
    }

    /// From after `{{` to after `}}`; whether the text that follows is trimmed.
    fn action(&mut self) -> Result<bool, TemplateError> {
        let inner = self.rest.trim_start();
        if inner.starts_with("/*") {
            let skipped = self.rest.len() - inner.len();
            let end = inner
                .find("*/")
                .ok_or_else(|| self.error("unclosed comment"))?;
            self.advance(skipped + end + 2);
            let trimmed = self.rest.trim_start();
            let trims = trimmed.starts_with("-}}");
            let close = if trims { "-}}" } else { "}}" };
            if !trimmed.starts_with(close) {
                return Err(self.error("comment ends before closing delimiter"));
            }
            self.advance(self.rest.len() - trimmed.len() + close.len());
            return Ok(trims);
        }
        self.push(Token::Open);
        loop {
            if self.rest.starts_with("}}") {
                self.advance(2);
                self.push(Token::Close);
                return Ok(false);
            }
            let Some(first) = self.rest.chars().next() else {
                return Err(self.error("unclosed action"));
            };
            if first.is_whitespace() {
                let blank = self.rest.len() - self.rest.trim_start().len();
                self.advance(blank);
                if self.rest.starts_with("-}}") {
                    self.advance(3);
                    self.push(Token::Close);
                    return Ok(true);
                }
                self.push(Token::Space);
                continue;
            }
            self.token(first)?;
        }
    }

    fn token(&mut self, first: char) -> Result<(), TemplateError> {
        let simple = [
            (":=", Token::Declare),
            ("=", Token::Assign),
            ("|", Token::Pipe),
            (",", Token::Comma),
            ("(", Token::LeftParen),
            (")", Token::RightParen),
        ];
        for (text, token) in simple {
            if self.rest.starts_with(text) {
                self.advance(text.len());
                self.push(token);
                return Ok(());
            }
        }
        match first {
            '"' => self.quoted(),
            '`' => {
                let end = self.rest[1..]
                    .find('`')
                    .ok_or_else(|| self.error("unterminated raw quoted string"))?;
                let text = self.rest[1..1 + end].to_owned();
                self.advance(end + 2);
                self.push(Token::Quoted(text));
                Ok(())
            }
            '\'' => {
                let end = self.rest[1..]
                    .find('\'')
                    .ok_or_else(|| self.error("unterminated character constant"))?;
                let inner = &self.rest[1..1 + end];
                let mut chars = inner.chars();
                let (Some(single), None) = (chars.next(), chars.next()) else {
                    return Err(self.error(format!("malformed character constant: '{inner}'")));
                };
                self.advance(end + 2);
                self.push(Token::Number(u32::from(single).into()));
                Ok(())
            }
            '.' if !self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = word(&self.rest[1..]).to_owned();
                self.advance(1 + name.len());
                self.push(if name.is_empty() {
                    Token::Dot
                } else {
                    Token::Field(name)
                });
                Ok(())
            }
            '$' => {
                let name = word(&self.rest[1..]).to_owned();
                self.advance(1 + name.len());
                self.push(Token::Variable(name));
                Ok(())
            }
            '+' | '-' | '.' | '0'..='9' => self.number(),
            _ => {
                let name = word(self.rest).to_owned();
                if name.is_empty() {
                    return Err(self.error(format!("unexpected {first:?} in action")));
                }
                self.advance(name.len());
                self.push(match name.as_str() {
                    "true" => Token::Bool(true),
                    "false" => Token::Bool(false),
                    "nil" => Token::Nil,
                    _ => Token::Identifier(name),
                });
                Ok(())
            }
        }
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let end = self.rest[1..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
            .map_or(self.rest.len(), |end| end + 1);
        let text = self.rest[..end].replace('_', "");
        let digits = text.trim_start_matches(['+', '-']);
        let negative = text.starts_with('-');
        let radix = |prefix: &str, base| {
            digits
                .strip_prefix(prefix)
                .and_then(|hex| i64::from_str_radix(hex, base).ok())
        };
        let whole = digits
            .parse::<i64>()
            .ok()
            .or_else(|| radix("0x", 16))
            .or_else(|| radix("0b", 2));
        let number = match whole {
            Some(whole) => Some(if negative { -whole } else { whole }.into()),
            None => text
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64),
        };
        let number = number.ok_or_else(|| self.error(format!("bad number syntax: {text:?}")))?;
        self.advance(end);
        self.push(Token::Number(number));
        Ok(())
    }

    /// A Go string literal: the escapes are near enough to JSON's plus `\a \v \x \'`.
    fn quoted(&mut self) -> Result<(), TemplateError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 1);
                    self.push(Token::Quoted(text));
                    return Ok(());
                }
                '\n' => break,
                '\\' => {
                    let Some((_, escape)) = chars.next() else {
                        break;
                    };
                    let mut hex = |digits: usize| {
                        let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                        u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)
                    };
                    let decoded = match escape {
                        'n' => Some('\n'),
                        't' => Some('\t'),
                        'r' => Some('\r'),
                        'a' => Some('\u{7}'),
                        'b' => Some('\u{8}'),
                        'f' => Some('\u{c}'),
                        'v' => Some('\u{b}'),
                        '\\' | '"' | '\'' => Some(escape),
                        'x' => hex(2),
                        'u' => hex(4),
                        'U' => hex(8),
                        _ => None,
                    };
                    text.push(decoded.ok_or_else(|| self.error("bad escape in quoted string"))?);
                }
                _ => text.push(c),
            }
        }
        Err(self.error("unterminated quoted string"))
    }
}

/// The letters, digits and underscores a text begins with.
fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    &text[..end]
}
