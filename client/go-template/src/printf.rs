//! Go's `printf` for the verbs that formats use: `%v %s %d %q %t %f %e %g %x %X %o %b %c %%` with flags `- + 0 space`,
//! width and precision.

use crate::evaluate::Item;
use crate::print::display;
use serde_json::Value;

/// A wider field is a mistake or malice.
const MAX_WIDTH: usize = 10_000;

pub(crate) fn printf(format: &str, arguments: &[Item]) -> String {
    let mut output = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            output.push(c);
            continue;
        }
        let (mut left, mut plus, mut zero, mut space) = (false, false, false, false);
        while let Some(flag) = chars.peek().copied().filter(|c| "-+0 #".contains(*c)) {
            match flag {
                '-' => left = true,
                '+' => plus = true,
                '0' => zero = true,
                ' ' => space = true,
                _ => {}
            }
            chars.next();
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            if chars.next_if_eq(&'*').is_some() {
                let width = arguments
                    .next()
                    .and_then(|item| item.as_ref()?.as_i64())
                    .unwrap_or(0);
                return Some(usize::try_from(width).unwrap_or(0).min(MAX_WIDTH));
            }
            let mut width = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                width = Some((width.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
                chars.next();
            }
            width
        };
        let width = number(&mut chars).unwrap_or(0);
        let precision = chars
            .next_if_eq(&'.')
            .map(|_| number(&mut chars).unwrap_or(0));
        let Some(verb) = chars.next() else {
            output.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            output.push('%');
            continue;
        }
        let Some(item) = arguments.next() else {
            output.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let mut text = one(verb, precision, item);
        let numeric = matches!(verb, 'd' | 'f' | 'F' | 'e' | 'g');
        if numeric && !text.starts_with('-') {
            if plus {
                text.insert(0, '+');
            } else if space {
                text.insert(0, ' ');
            }
        }
        let missing = width.saturating_sub(text.chars().count());
        if left {
            output.push_str(&text);
            output.extend(std::iter::repeat_n(' ', missing));
        } else if zero && numeric {
            let sign = usize::from(text.starts_with(['-', '+', ' ']));
            output.push_str(&text[..sign]);
            output.extend(std::iter::repeat_n('0', missing));
            output.push_str(&text[sign..]);
        } else {
            output.extend(std::iter::repeat_n(' ', missing));
            output.push_str(&text);
        }
    }
    output
}

fn one(verb: char, precision: Option<usize>, item: &Item) -> String {
    let whole = item.as_ref().and_then(Value::as_i64);
    let float = item.as_ref().and_then(Value::as_f64);
    let is_text = matches!(item, Some(Value::String(_)));
    match (verb, whole, float) {
        ('v', ..) => display(item),
        ('s', ..) if !matches!(item, Some(Value::Number(_) | Value::Bool(_))) => match precision {
            Some(limit) => display(item).chars().take(limit).collect(),
            None => display(item),
        },
        ('q', ..) if is_text => {
            serde_json::to_string(item.as_ref().expect("it is text")).expect("text is JSON")
        }
        ('t', ..) if matches!(item, Some(Value::Bool(_))) => display(item),
        ('x', ..) if is_text => display(item)
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        ('X', ..) if is_text => display(item)
            .bytes()
            .map(|byte| format!("{byte:02X}"))
            .collect(),
        ('d', Some(whole), _) => whole.to_string(),
        ('x', Some(whole), _) => format!("{whole:x}"),
        ('X', Some(whole), _) => format!("{whole:X}"),
        ('o', Some(whole), _) => format!("{whole:o}"),
        ('b', Some(whole), _) => format!("{whole:b}"),
        ('c', Some(whole), _) => u32::try_from(whole)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
            .to_string(),
        ('f' | 'F', _, Some(float)) => format!("{float:.*}", precision.unwrap_or(6)),
        ('e', _, Some(float)) => format!("{float:.*e}", precision.unwrap_or(6)),
        ('g', _, Some(_)) => display(item),
        _ => format!("%!{verb}({})", display(item)),
    }
}
