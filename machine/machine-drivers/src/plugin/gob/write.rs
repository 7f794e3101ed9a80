//! Writing a stream.

use super::*;

/// The sending half of a stream: remembers which types it has defined.
#[derive(Default)]
pub struct Encoder {
    sent: Vec<(Type, i64)>,
    out: Vec<u8>,
}

impl Encoder {
    /// One value as bytes, definitions of its new types before it.
    pub fn encode(&mut self, of: &Type, value: &Value) -> io::Result<Vec<u8>> {
        self.out.clear();
        let mut body = Vec::new();
        self.define(of, &mut body, None);
        put_int(&mut body, self.number(of));
        if !matches!(of, Type::Struct(..)) {
            body.push(0);
        }
        self.value(of, value, &mut body, None)?;
        put_message(&mut self.out, &mut body);
        Ok(std::mem::take(&mut self.out))
    }

    fn number(&self, of: &Type) -> i64 {
        match of {
            Type::Basic(number) => *number,
            _ => {
                let found = self.sent.iter().find(|(sent, _)| sent == of);
                found.map_or(0, |(_, number)| *number)
            }
        }
    }

    /// Sends the definition of a type and those it is made of, unless that was done. What `body` holds so far goes with the first.
    /// `outer` is the buffer of the interface value that is being written, if one is.
    fn define(&mut self, of: &Type, body: &mut Vec<u8>, mut outer: Option<&mut Vec<u8>>) {
        if matches!(of, Type::Basic(_)) || self.sent.iter().any(|(sent, _)| sent == of) {
            return;
        }
        let number = FIRST + self.sent.len() as i64;
        self.sent.push((of.clone(), number));
        put_int(body, -self.number(of));
        self.definition(of, body);
        match outer.as_deref_mut() {
            Some(outer) => put_message(outer, body),
            None => put_message(&mut self.out, body),
        }
        let inner: Vec<&Type> = match of {
            Type::Struct(_, fields) => fields.iter().map(|(_, of)| of).collect(),
            Type::Slice(element) => vec![element],
            Type::Map(key, element) => vec![key, element],
            Type::Basic(_) => Vec::new(),
        };
        for inner in inner {
            self.define(inner, body, outer.as_deref_mut());
        }
    }

    fn unsent(&self, of: &Type) -> bool {
        !matches!(of, Type::Basic(_)) && !self.sent.iter().any(|(sent, _)| sent == of)
    }

    fn definition(&self, of: &Type, body: &mut Vec<u8>) {
        // The types inside get the numbers that follow.
        let mut next = FIRST + self.sent.len() as i64;
        let mut number_of = |inner: &Type| match inner {
            Type::Basic(number) => *number,
            _ if !self.unsent(inner) => self.number(inner),
            _ => {
                next += 1;
                next - 1
            }
        };
        let own = self.number(of);
        let common = |body: &mut Vec<u8>, name: &str| {
            put_uint(body, 1);
            if name.is_empty() {
                put_uint(body, 2);
            } else {
                put_uint(body, 1);
                put_text(body, name.as_bytes());
                put_uint(body, 1);
            }
            put_int(body, own);
            body.push(0);
        };
        match of {
            Type::Basic(_) => return,
            Type::Struct(name, fields) => {
                put_uint(body, 3);
                common(body, name);
                if !fields.is_empty() {
                    put_uint(body, 1);
                    put_uint(body, fields.len() as u64);
                    for (name, of) in fields {
                        put_uint(body, 1);
                        put_text(body, name.as_bytes());
                        put_uint(body, 1);
                        put_int(body, number_of(of));
                        body.push(0);
                    }
                }
            }
            Type::Slice(element) => {
                put_uint(body, 2);
                common(body, "");
                put_uint(body, 1);
                put_int(body, number_of(element));
            }
            Type::Map(key, element) => {
                put_uint(body, 4);
                common(body, "");
                put_uint(body, 1);
                put_int(body, number_of(key));
                put_uint(body, 1);
                put_int(body, number_of(element));
            }
        }
        body.push(0);
        body.push(0);
    }

    fn value(
        &mut self,
        of: &Type,
        value: &Value,
        body: &mut Vec<u8>,
        mut outer: Option<&mut Vec<u8>>,
    ) -> io::Result<()> {
        match (of, value) {
            (Type::Basic(BOOL), Value::Bool(value)) => put_uint(body, u64::from(*value)),
            (Type::Basic(INT), Value::Int(value)) => put_int(body, *value),
            (Type::Basic(UINT), Value::Uint(value)) => put_uint(body, *value),
            (Type::Basic(BYTES), Value::Bytes(value)) => put_text(body, value),
            (Type::Basic(STRING), Value::Text(value)) => put_text(body, value.as_bytes()),
            (Type::Basic(INTERFACE), Value::Nil) => put_uint(body, 0),
            (Type::Basic(INTERFACE), Value::Interface(name, inner)) => {
                let of = concrete(name).ok_or_else(|| broken(format!("unknown type {name}")))?;
                put_text(body, name.as_bytes());
                self.define(&of, body, outer);
                put_int(body, self.number(&of));
                let mut data = Vec::new();
                if !matches!(of, Type::Struct(..)) {
                    data.push(0);
                }
                self.value(&of, inner, &mut data, Some(body))?;
                put_message(body, &mut data);
            }
            (Type::Struct(_, fields), Value::Struct(values)) => {
                let mut last = 0;
                for (index, (name, of)) in fields.iter().enumerate() {
                    let Some(value) = values.get(*name).filter(|value| !is_zero(value)) else {
                        continue;
                    };
                    put_uint(body, index as u64 + 1 - last);
                    last = index as u64 + 1;
                    self.value(of, value, body, outer.as_deref_mut())?;
                }
                body.push(0);
            }
            (Type::Slice(of), Value::List(values)) => {
                put_uint(body, values.len() as u64);
                for value in values {
                    self.value(of, value, body, outer.as_deref_mut())?;
                }
            }
            (Type::Map(key, element), Value::Map(pairs)) => {
                put_uint(body, pairs.len() as u64);
                for (name, value) in pairs {
                    self.value(key, name, body, outer.as_deref_mut())?;
                    self.value(element, value, body, outer.as_deref_mut())?;
                }
            }
            _ => return Err(broken(format!("{value:?} is not of type {of:?}"))),
        }
        Ok(())
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Bytes(value) => value.is_empty(),
        Value::Text(value) => value.is_empty(),
        Value::List(values) => values.is_empty(),
        Value::Map(pairs) => pairs.is_empty(),
        Value::Nil => true,
        Value::Struct(_) | Value::Interface(..) => false,
    }
}

/// The types that plug-ins put into interfaces, by the names they are registered under.
fn concrete(name: &str) -> Option<Type> {
    let text = || Type::Basic(STRING);
    let flag = |name, value: Option<Type>| {
        let mut fields = vec![("Name", text()), ("Usage", text()), ("EnvVar", text())];
        if let Some(value) = value {
            fields.push(("Value", value));
        }
        Type::Struct(name, fields)
    };
    Some(match name {
        "bool" => Type::Basic(BOOL),
        "int" => Type::Basic(INT),
        "string" => text(),
        "[]string" => Type::Slice(Box::new(text())),
        "*rpcdriver.RPCFlags" => Type::Struct(
            "RPCFlags",
            vec![(
                "Values",
                Type::Map(Box::new(text()), Box::new(Type::Basic(INTERFACE))),
            )],
        ),
        "*mcnflag.StringFlag" => flag("StringFlag", Some(text())),
        "*mcnflag.StringSliceFlag" => flag("StringSliceFlag", Some(Type::Slice(Box::new(text())))),
        "*mcnflag.IntFlag" => flag("IntFlag", Some(Type::Basic(INT))),
        "*mcnflag.BoolFlag" => flag("BoolFlag", None),
        _ => return None,
    })
}

fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 128 {
        out.push(value as u8);
        return;
    }
    let bytes = value.to_be_bytes();
    let skip = (value.leading_zeros() / 8) as usize;
    out.push((256 - (8 - skip)) as u8);
    out.extend_from_slice(&bytes[skip..]);
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    let bits = match value < 0 {
        true => ((!value as u64) << 1) | 1,
        false => (value as u64) << 1,
    };
    put_uint(out, bits);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_uint(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Moves what is in `body` to `out`, its length before it.
fn put_message(out: &mut Vec<u8>, body: &mut Vec<u8>) {
    put_uint(out, body.len() as u64);
    out.append(body);
}
