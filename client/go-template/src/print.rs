//! How Go prints values (`fmt`'s `%v`).

use crate::evaluate::Item;
use serde_json::{Map, Value};

/// Whether a JSON object stands for a Go struct: it has keys and all are exported names.
pub(crate) fn is_struct(map: &Map<String, Value>) -> bool {
    !map.is_empty() && map.keys().all(|key| exported(key))
}

fn exported(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(crate) fn display(item: &Item) -> String {
    match item {
        None => "<no value>".to_owned(),
        Some(value) => text(value),
    }
}

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => whole.to_string(),
            (_, Some(whole), _) => whole.to_string(),
            (_, _, Some(float)) => float_text(float),
            _ => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) if is_struct(map) => {
            format!(
                "{{{}}}",
                map.values().map(text).collect::<Vec<_>>().join(" ")
            )
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let pairs: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{key}:{}", text(&map[key])))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

/// The shortest form; with an exponent below 1e-4 and from 1e21 on, as Go's `%v` does.
fn float_text(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-4..1e21).contains(&size) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    let (mantissa, exponent) = text.split_once('e').expect("an exponent was asked for");
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}
