//! Go's built-in functions and docker's.

use crate::evaluate::{Item, truth};
use crate::print::{display, text};
use crate::printf::printf;
use serde_json::Value;
use std::cmp::Ordering;

/// Every function, by name.
const NAMES: &[&str] = &[
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "js",
    "urlquery",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "json",
    "prettyjson",
    "split",
    "join",
    "title",
    "lower",
    "upper",
    "pad",
    "truncate",
];

pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(crate) fn call(name: &str, arguments: &[Item]) -> Result<Item, String> {
    let string = |text: String| Ok(Some(Value::String(text)));
    match name {
        "not" => Ok(Some(Value::Bool(!truth(one(arguments)?)))),
        "len" => length(one(arguments)?),
        "index" => index(arguments),
        "slice" => slice(arguments),
        "print" => string(arguments.iter().map(display).collect::<Vec<_>>().join(" ")),
        "println" => string(arguments.iter().map(display).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => {
            let (format, rest) = arguments
                .split_first()
                .ok_or("wrong number of args: want at least 1 got 0")?;
            string(printf(&string_of(format)?, rest))
        }
        "html" => string(escape(&display(one(arguments)?), HTML)),
        "js" => string(escape(&display(one(arguments)?), JAVASCRIPT)),
        "urlquery" => string(url_query(&display(one(arguments)?))),
        "eq" => {
            let (first, rest) = arguments
                .split_first()
                .ok_or("missing argument for comparison")?;
            if rest.is_empty() {
                return Err("missing argument for comparison".into());
            }
            Ok(Some(Value::Bool(
                rest.iter().any(|other| equal(first, other)),
            )))
        }
        "ne" => two(arguments).map(|(a, b)| Some(Value::Bool(!equal(a, b)))),
        "lt" => compare(arguments, Ordering::is_lt),
        "le" => compare(arguments, Ordering::is_le),
        "gt" => compare(arguments, Ordering::is_gt),
        "ge" => compare(arguments, Ordering::is_ge),
        "json" => {
            string(serde_json::to_string(&value_of(one(arguments)?)).expect("a JSON value is JSON"))
        }
        "prettyjson" => string(pretty(&value_of(one(arguments)?))),
        "split" => {
            let (whole, separator) = two(arguments)?;
            let (whole, separator) = (string_of(whole)?, string_of(separator)?);
            let parts: Vec<Value> = if separator.is_empty() {
                whole
                    .chars()
                    .map(|c| Value::String(c.to_string()))
                    .collect()
            } else {
                whole.split(separator.as_str()).map(Value::from).collect()
            };
            Ok(Some(Value::Array(parts)))
        }
        "join" => {
            let (list, separator) = two(arguments)?;
            let Some(Value::Array(list)) = list else {
                return if truth(list) {
                    Err(format!("cannot join {}", display(list)))
                } else {
                    string(String::new())
                };
            };
            string(
                list.iter()
                    .map(text)
                    .collect::<Vec<_>>()
                    .join(&string_of(separator)?),
            )
        }
        "title" => string(title(&string_of(one(arguments)?)?)),
        "lower" => string(string_of(one(arguments)?)?.to_lowercase()),
        "upper" => string(string_of(one(arguments)?)?.to_uppercase()),
        "pad" => {
            let [inner, before, after] = arguments else {
                return Err(count(3, arguments));
            };
            let spaces = |item: &Item| whole(item).map(|n| " ".repeat(n.clamp(0, 10_000) as usize));
            string(format!(
                "{}{}{}",
                spaces(before)?,
                string_of(inner)?,
                spaces(after)?
            ))
        }
        "truncate" => {
            let (inner, limit) = two(arguments)?;
            let limit = whole(limit)?.max(0) as usize;
            string(string_of(inner)?.chars().take(limit).collect())
        }
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn count(wanted: usize, arguments: &[Item]) -> String {
    format!(
        "wrong number of args: want {wanted} got {}",
        arguments.len()
    )
}

fn one(arguments: &[Item]) -> Result<&Item, String> {
    match arguments {
        [only] => Ok(only),
        _ => Err(count(1, arguments)),
    }
}

fn two(arguments: &[Item]) -> Result<(&Item, &Item), String> {
    match arguments {
        [first, second] => Ok((first, second)),
        _ => Err(count(2, arguments)),
    }
}

fn value_of(item: &Item) -> Value {
    item.clone().unwrap_or(Value::Null)
}

fn string_of(item: &Item) -> Result<String, String> {
    match item {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Ok(String::new()),
        Some(other) => Err(format!(
            "wrong type for value; expected string; got {}",
            text(other)
        )),
    }
}

fn whole(item: &Item) -> Result<i64, String> {
    item.as_ref()
        .and_then(Value::as_i64)
        .ok_or_else(|| format!("expected integer; got {}", display(item)))
}

fn length(item: &Item) -> Result<Item, String> {
    let length = match item {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        Some(Value::Null) => 0,
        None => return Err("len of nil pointer".into()),
        Some(other) => return Err(format!("len of type {}", text(other))),
    };
    Ok(Some(Value::from(length)))
}

fn index(arguments: &[Item]) -> Result<Item, String> {
    let (first, keys) = arguments.split_first().ok_or_else(|| count(1, arguments))?;
    let mut item = first.clone();
    for key in keys {
        item = match item {
            Some(Value::Object(mut map)) => map.remove(&string_of(key)?),
            Some(Value::Array(mut list)) => {
                let at = whole(key)?;
                let place = usize::try_from(at).ok().filter(|at| *at < list.len());
                Some(list.swap_remove(place.ok_or_else(|| format!("index out of range: {at}"))?))
            }
            Some(Value::String(text)) => {
                let at = whole(key)?;
                let byte = usize::try_from(at)
                    .ok()
                    .and_then(|at| text.as_bytes().get(at).copied());
                Some(Value::from(
                    byte.ok_or_else(|| format!("index out of range: {at}"))?,
                ))
            }
            None | Some(Value::Null) => return Err("index of untyped nil".into()),
            Some(other) => return Err(format!("can't index item of type {}", text(&other))),
        };
    }
    Ok(item)
}

fn slice(arguments: &[Item]) -> Result<Item, String> {
    let (first, bounds) = arguments.split_first().ok_or_else(|| count(1, arguments))?;
    let size = match first {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(list)) => list.len(),
        other => return Err(format!("can't slice item of type {}", display(other))),
    };
    let bound = |at: usize, default: usize| -> Result<usize, String> {
        let Some(item) = bounds.get(at) else {
            return Ok(default);
        };
        let number = whole(item)?;
        usize::try_from(number)
            .ok()
            .filter(|n| *n <= size)
            .ok_or_else(|| format!("index out of range: {number}"))
    };
    let (from, to) = (bound(0, 0)?, bound(1, size)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(Some(match first {
        Some(Value::Array(list)) => Value::Array(list[from..to].to_vec()),
        // Go cuts bytes; half a character becomes the replacement sign.
        Some(Value::String(text)) => {
            Value::String(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => unreachable!("other types were refused above"),
    }))
}

fn equal(a: &Item, b: &Item) -> bool {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_f64() == b.as_f64(),
        (None | Some(Value::Null), None | Some(Value::Null)) => true,
        (a, b) => a == b,
    }
}

fn compare(arguments: &[Item], holds: fn(Ordering) -> bool) -> Result<Item, String> {
    let (a, b) = two(arguments)?;
    let order = match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_f64().partial_cmp(&b.as_f64()),
        (Some(Value::String(a)), Some(Value::String(b))) => Some(a.cmp(b)),
        _ => None,
    };
    let order = order.ok_or("incompatible types for comparison")?;
    Ok(Some(Value::Bool(holds(order))))
}

/// Four spaces, as docker-machine's `prettyjson` and docker's `inspect` have.
fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value is JSON");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            result.extend(c.to_uppercase());
        } else {
            result.push(c);
        }
        begins = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    result
}

const HTML: &[(char, &str)] = &[
    ('&', "&amp;"),
    ('<', "&lt;"),
    ('>', "&gt;"),
    ('"', "&#34;"),
    ('\'', "&#39;"),
];
const JAVASCRIPT: &[(char, &str)] = &[
    ('\\', "\\\\"),
    ('\'', "\\'"),
    ('"', "\\\""),
    ('<', "\\u003C"),
    ('>', "\\u003E"),
    ('&', "\\u0026"),
    ('\n', "\\u000A"),
];

fn escape(text: &str, table: &[(char, &str)]) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match table.iter().find(|(from, _)| *from == c) {
            Some((_, to)) => result.push_str(to),
            None => result.push(c),
        }
    }
    result
}

fn url_query(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                result.push(byte.into())
            }
            b' ' => result.push('+'),
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}
