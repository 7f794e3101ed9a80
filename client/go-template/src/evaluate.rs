//! Runs nodes over a value.

use crate::parse::{Base, Command, Node, Operand, Pipe};
use crate::print::{display, is_struct};
use crate::{MAX_COUNT, MAX_OUTPUT_BYTES, TemplateError, functions};
use serde_json::Value;

/// `None` is a missing map entry: `<no value>` when printed.
pub(crate) type Item = Option<Value>;

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(crate) fn render(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let mut state = State {
        output: String::new(),
        variables: vec![(String::new(), Some(value.clone()))],
    };
    state.list(nodes, &Some(value.clone()))?;
    Ok(state.output)
}

struct State {
    output: String,
    /// Innermost last; the unnamed one is `$`.
    variables: Vec<(String, Item)>,
}

impl State {
    fn list(&mut self, nodes: &[Node], dot: &Item) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Item) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.write(text, 0)?,
            Node::Action(pipe) => {
                let item = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.write(&display(&item), pipe.line)?;
                }
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                return self.scope(|state| {
                    let chosen = if truth(&state.pipe(condition, dot)?) {
                        then
                    } else {
                        otherwise
                    };
                    state.list(chosen, dot)
                });
            }
            Node::With {
                value,
                then,
                otherwise,
            } => {
                return self.scope(|state| {
                    let item = state.pipe(value, dot)?;
                    if truth(&item) {
                        state.list(then, &item)
                    } else {
                        state.list(otherwise, dot)
                    }
                });
            }
            Node::Range {
                over,
                body,
                otherwise,
            } => return self.range(over, body, otherwise, dot),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// Variables declared inside are gone afterwards.
    fn scope(
        &mut self,
        run: impl FnOnce(&mut State) -> Result<Flow, TemplateError>,
    ) -> Result<Flow, TemplateError> {
        let mark = self.variables.len();
        let result = run(self);
        self.variables.truncate(mark);
        result
    }

    fn range(
        &mut self,
        over: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Item,
    ) -> Result<Flow, TemplateError> {
        // The variables of a range are the loop's, not the pipeline's value.
        let plain = Pipe {
            variables: Vec::new(),
            ..over.clone()
        };
        let pairs: Vec<(Value, Value)> = match self.pipe(&plain, dot)? {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list
                .into_iter()
                .enumerate()
                .map(|(index, value)| (Value::from(index), value))
                .collect(),
            Some(Value::Object(map)) => {
                let mut pairs: Vec<(String, Value)> = map.into_iter().collect();
                // Go walks maps in the order of their keys.
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                pairs
                    .into_iter()
                    .map(|(key, value)| (Value::String(key), value))
                    .collect()
            }
            Some(Value::Number(number))
                if number.as_u64().is_some_and(|count| count <= MAX_COUNT) =>
            {
                let count = number.as_u64().unwrap_or_default();
                (0..count)
                    .map(|index| (Value::from(index), Value::from(index)))
                    .collect()
            }
            Some(other) => {
                let why = format!("range can't iterate over {}", display(&Some(other)));
                return Err(TemplateError::Execute {
                    line: over.line,
                    at: "range".into(),
                    why,
                });
            }
        };
        if pairs.is_empty() {
            return self.scope(|state| state.list(otherwise, dot));
        }
        for (key, value) in pairs {
            let flow = self.scope(|state| {
                match over.variables.as_slice() {
                    [] => {}
                    [single] => state.variables.push((single.clone(), Some(value.clone()))),
                    [first, second, ..] => {
                        state.variables.push((first.clone(), Some(key)));
                        state.variables.push((second.clone(), Some(value.clone())));
                    }
                }
                state.list(body, &Some(value))
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Item) -> Result<Item, TemplateError> {
        let mut item: Option<Item> = None;
        for command in &pipe.commands {
            item = Some(self.command(command, dot, item, pipe.line)?);
        }
        let item = item.flatten();
        for name in &pipe.variables {
            if pipe.assigns {
                let slot = self
                    .variables
                    .iter_mut()
                    .rev()
                    .find(|(known, _)| known == name);
                let slot = slot.ok_or_else(|| undefined(name, pipe.line))?;
                slot.1 = item.clone();
            } else {
                self.variables.push((name.clone(), item.clone()));
            }
        }
        Ok(item)
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Item,
        piped: Option<Item>,
        line: usize,
    ) -> Result<Item, TemplateError> {
        let (first, rest) = command
            .split_first()
            .expect("the parser makes no empty command");
        let Base::Function(name) = &first.base else {
            if !rest.is_empty() || piped.is_some() {
                let why = "can't give argument to non-function".to_owned();
                return Err(TemplateError::Execute {
                    line,
                    at: first.text(),
                    why,
                });
            }
            return self.operand(first, dot, line);
        };
        let fail = |why: String| TemplateError::Execute {
            line,
            at: name.clone(),
            why,
        };
        // `and` and `or` look at no more than they need.
        if name == "and" || name == "or" {
            let mut last: Option<Item> = None;
            for operand in rest {
                let item = self.operand(operand, dot, line)?;
                let stop = truth(&item) == (name == "or");
                last = Some(item);
                if stop {
                    return Ok(last.flatten());
                }
            }
            return piped
                .or(last)
                .ok_or_else(|| fail("wrong number of args: want at least 1 got 0".into()));
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot, line)?);
        }
        arguments.extend(piped);
        let result = functions::call(name, &arguments).map_err(fail)?;
        take_fields(result, &first.fields, line)
    }

    fn operand(
        &mut self,
        operand: &Operand,
        dot: &Item,
        line: usize,
    ) -> Result<Item, TemplateError> {
        let item = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let slot = self.variables.iter().rev().find(|(known, _)| known == name);
                slot.ok_or_else(|| undefined(name, line))?.1.clone()
            }
            Base::Literal(value) => Some(value.clone()),
            Base::Nested(pipe) => self.pipe(pipe, dot)?,
            Base::Function(_) => self.command(&vec![operand.clone()], dot, None, line)?,
        };
        match &operand.base {
            Base::Function(_) => Ok(item),
            _ => take_fields(item, &operand.fields, line),
        }
    }

    fn write(&mut self, text: &str, line: usize) -> Result<(), TemplateError> {
        if self.output.len() + text.len() > MAX_OUTPUT_BYTES {
            let why = "the output is too large".to_owned();
            return Err(TemplateError::Execute {
                line,
                at: "output".into(),
                why,
            });
        }
        self.output.push_str(text);
        Ok(())
    }
}

impl Operand {
    fn text(&self) -> String {
        let base = match &self.base {
            Base::Dot if self.fields.is_empty() => ".".to_owned(),
            Base::Dot | Base::Nested(_) => String::new(),
            Base::Variable(name) => format!("${name}"),
            Base::Function(name) => name.clone(),
            Base::Literal(value) => value.to_string(),
        };
        self.fields
            .iter()
            .fold(base, |text, field| format!("{text}.{field}"))
    }
}

fn undefined(name: &str, line: usize) -> TemplateError {
    TemplateError::Execute {
        line,
        at: format!("${name}"),
        why: format!("undefined variable \"${name}\""),
    }
}

fn take_fields(mut item: Item, fields: &[String], line: usize) -> Result<Item, TemplateError> {
    for field in fields {
        let fail = |why: String| TemplateError::Execute {
            line,
            at: format!(".{field}"),
            why,
        };
        item = match item {
            Some(Value::Object(mut map)) => match map.remove(field) {
                Some(value) => Some(value),
                None if is_struct(&map) => {
                    return Err(fail(format!("map has no entry for key \"{field}\"")));
                }
                None => None,
            },
            None => None,
            Some(Value::Null) => return Err(fail(format!("nil pointer evaluating .{field}"))),
            Some(other) => {
                return Err(fail(format!(
                    "can't evaluate field {field} in {}",
                    display(&Some(other))
                )));
            }
        };
    }
    Ok(item)
}

/// Go's truth: false, 0, nil, and what is empty are not true.
pub(crate) fn truth(item: &Item) -> bool {
    match item {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}
