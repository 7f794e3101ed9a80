//! Turns tokens into nodes.

use crate::lexer::{Located, Token, tokens};
use crate::{MAX_DEPTH, TemplateError};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Text(String),
    Action(Pipe),
    If {
        condition: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// `$a, $b := command | command`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pipe {
    pub(crate) line: usize,
    pub(crate) variables: Vec<String>,
    /// `=` where it is not `:=`.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

/// Operands side by side: the first may be a function, the others are its arguments.
pub(crate) type Command = Vec<Operand>;

/// A base and the fields taken from it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand {
    pub(crate) base: Base,
    pub(crate) fields: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Nested(Box<Pipe>),
}

/// What ended a list of nodes.
#[derive(Debug, PartialEq)]
enum End {
    Input,
    /// `{{end}}`
    Block,
    /// `{{else}}`
    Else,
    /// `{{else if ...}}` or `{{else with ...}}`, read up to the keyword.
    ElseBlock(String),
}

pub(crate) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        tokens: tokens(text)?.into_iter().peekable(),
        line: 1,
        depth: 0,
        loops: 0,
    };
    match parser.list()? {
        (nodes, End::Input) => Ok(nodes),
        (_, End::Block) => Err(parser.error("unexpected {{end}}")),
        (_, _) => Err(parser.error("unexpected {{else}}")),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Located>>,
    line: usize,
    depth: usize,
    loops: usize,
}

impl Parser {
    fn error(&self, why: impl Into<String>) -> TemplateError {
        TemplateError::Parse {
            line: self.line,
            why: why.into(),
        }
    }

    fn next(&mut self) -> Option<Token> {
        let (token, line) = self.tokens.next()?;
        self.line = line;
        Some(token)
    }

    fn peek(&mut self) -> Option<&Token> {
        self.tokens.peek().map(|(token, _)| token)
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.next();
        }
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        self.skip_space();
        match self.next() {
            Some(Token::Close) => Ok(()),
            other => Err(self.error(format!(
                "unexpected {other:?}, expected the end of the action"
            ))),
        }
    }

    fn list(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("blocks are nested too deeply"));
        }
        let mut nodes = Vec::new();
        let end = loop {
            match self.next() {
                None => break End::Input,
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    self.skip_space();
                    let keyword = match self.peek() {
                        Some(Token::Identifier(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match keyword.as_str() {
                        "end" => {
                            self.next();
                            self.close()?;
                            break End::Block;
                        }
                        "else" => {
                            self.next();
                            self.skip_space();
                            if let Some(Token::Identifier(word)) = self.peek()
                                && (word == "if" || word == "with")
                            {
                                let word = word.clone();
                                self.next();
                                break End::ElseBlock(word);
                            }
                            self.close()?;
                            break End::Else;
                        }
                        "if" | "with" | "range" => {
                            self.next();
                            nodes.push(self.block(&keyword)?);
                        }
                        "break" | "continue" => {
                            self.next();
                            self.close()?;
                            if self.loops == 0 {
                                return Err(
                                    self.error(format!("{{{{{keyword}}}}} outside {{{{range}}}}"))
                                );
                            }
                            nodes.push(if keyword == "break" {
                                Node::Break
                            } else {
                                Node::Continue
                            });
                        }
                        "define" | "template" | "block" => {
                            return Err(self
                                .error(format!("{{{{{keyword}}}}} is not supported in a format")));
                        }
                        _ => {
                            let pipe = self.pipe(&Token::Close)?;
                            if pipe.commands.is_empty() {
                                return Err(self.error("missing value for command"));
                            }
                            nodes.push(Node::Action(pipe));
                        }
                    }
                }
                Some(other) => return Err(self.error(format!("unexpected {other:?}"))),
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    /// From after the keyword to after its `{{end}}`.
    fn block(&mut self, keyword: &str) -> Result<Node, TemplateError> {
        let pipe = self.pipe(&Token::Close)?;
        if pipe.commands.is_empty() {
            return Err(self.error(format!("missing value for {keyword}")));
        }
        if keyword == "range" {
            self.loops += 1;
        }
        let (then, end) = self.list()?;
        if keyword == "range" {
            self.loops -= 1;
        }
        let otherwise = match end {
            End::Input => return Err(self.error("unexpected EOF")),
            End::Block => Vec::new(),
            End::Else => match self.list()? {
                (nodes, End::Block) => nodes,
                _ => return Err(self.error(format!("{{{{{keyword}}}}} has no {{{{end}}}}"))),
            },
            End::ElseBlock(_) if keyword == "range" => {
                return Err(self.error("unexpected if in else of range"));
            }
            End::ElseBlock(word) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(self.error("blocks are nested too deeply"));
                }
                let node = self.block(&word)?;
                self.depth -= 1;
                vec![node]
            }
        };
        Ok(match keyword {
            "if" => Node::If {
                condition: pipe,
                then,
                otherwise,
            },
            "with" => Node::With {
                value: pipe,
                then,
                otherwise,
            },
            _ => Node::Range {
                over: pipe,
                body: then,
                otherwise,
            },
        })
    }

    /// Reads up to `end` and takes it.
    fn pipe(&mut self, end: &Token) -> Result<Pipe, TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("parentheses are nested too deeply"));
        }
        self.skip_space();
        let mut pipe = Pipe {
            line: self.line,
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        let mut command = Command::new();
        loop {
            // Arguments are told apart by blanks: `.A .B` is two operands, `.A.B` one with two fields.
            let spaced = self.peek() == Some(&Token::Space);
            self.skip_space();
            let Some(token) = self.next() else {
                return Err(self.error("unclosed action"));
            };
            match token {
                token if token == *end => break,
                Token::Pipe => {
                    if command.is_empty() {
                        return Err(self.error("missing value for command"));
                    }
                    pipe.commands.push(std::mem::take(&mut command));
                    // Something must follow.
                    self.skip_space();
                    if self.peek() == Some(end) {
                        return Err(self.error("missing value for command"));
                    }
                }
                Token::Declare | Token::Assign
                    if pipe.commands.is_empty() && !command.is_empty() =>
                {
                    for operand in command.drain(..) {
                        match operand {
                            Operand {
                                base: Base::Variable(name),
                                fields,
                            } if fields.is_empty() => {
                                pipe.variables.push(name);
                            }
                            _ => return Err(self.error("only a variable can be assigned to")),
                        }
                    }
                    pipe.assigns = token == Token::Assign;
                }
                Token::Comma
                    if pipe.commands.is_empty()
                        && pipe.variables.is_empty()
                        && !command.is_empty() => {}
                Token::Field(name) if !spaced && !command.is_empty() => {
                    command
                        .last_mut()
                        .expect("it is not empty")
                        .fields
                        .push(name);
                }
                Token::Field(name) => command.push(Operand {
                    base: Base::Dot,
                    fields: vec![name],
                }),
                Token::Dot => command.push(plain(Base::Dot)),
                Token::Variable(name) => command.push(plain(Base::Variable(name))),
                Token::Identifier(name) => {
                    if !crate::functions::exists(&name) {
                        return Err(self.error(format!("function {name:?} not defined")));
                    }
                    command.push(plain(Base::Function(name)));
                }
                Token::Quoted(text) => command.push(plain(Base::Literal(Value::String(text)))),
                Token::Number(number) => command.push(plain(Base::Literal(Value::Number(number)))),
                Token::Bool(value) => command.push(plain(Base::Literal(Value::Bool(value)))),
                Token::Nil => command.push(plain(Base::Literal(Value::Null))),
                Token::LeftParen => {
                    let nested = self.pipe(&Token::RightParen)?;
                    command.push(plain(Base::Nested(Box::new(nested))));
                }
                other => return Err(self.error(format!("unexpected {other:?} in action"))),
            }
        }
        if !command.is_empty() {
            pipe.commands.push(command);
        } else if !pipe.variables.is_empty() && pipe.commands.is_empty() {
            return Err(self.error("missing value for assignment"));
        }
        self.depth -= 1;
        Ok(pipe)
    }
}

fn plain(base: Base) -> Operand {
    Operand {
        base,
        fields: Vec::new(),
    }
}
