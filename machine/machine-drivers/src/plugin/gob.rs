//! Go's `encoding/gob`, as far as docker-machine's plug-ins speak it (<https://pkg.go.dev/encoding/gob>, "Encoding Details").
//!
//! A stream is a row of messages: a length, a type's number, and either the definition of a type (the number is negative)
//! or a value. Types are defined once, before their first value. An interface value carries its concrete type's name; where that type is
//! new, its definition cuts the message in two.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// Longest message that is read: flags and configurations are small.
const MAX_MESSAGE_BYTES: u64 = 64 << 20;
/// Deepest nesting that is read.
const MAX_DEPTH: usize = 32;

/// Numbers of the types that need no definition.
pub const BOOL: i64 = 1;
pub const INT: i64 = 2;
pub const UINT: i64 = 3;
pub const FLOAT: i64 = 4;
pub const BYTES: i64 = 5;
pub const STRING: i64 = 6;
pub const INTERFACE: i64 = 8;
/// Go gives the first type of a program this number.
const FIRST: i64 = 64;

/// A value, whatever its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// Fields that are zero are not sent.
    Struct(BTreeMap<String, Value>),
    Interface(String, Box<Value>),
    Nil,
}

impl Value {
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(fields) => fields.get(name),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Uint(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }
}

/// How a value is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Basic(i64),
    /// Name and fields, in order. The empty struct has no name.
    Struct(&'static str, Vec<(&'static str, Type)>),
    Slice(Box<Type>),
    Map(Box<Type>, Box<Type>),
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

// ---------------------------------------------------------------- writing

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

// ---------------------------------------------------------------- reading

/// A type as the other side defined it.
#[derive(Debug, Clone)]
enum Known {
    Struct(Vec<(String, i64)>),
    /// Slices and arrays.
    List(i64),
    Map(i64, i64),
    /// Encodes itself: opaque bytes.
    Opaque,
}

/// The receiving half of a stream.
pub struct Decoder<R> {
    stream: R,
    /// What is left of the present message.
    message: Vec<u8>,
    at: usize,
    types: BTreeMap<i64, Known>,
}

impl<R: Read> Decoder<R> {
    pub fn new(stream: R) -> Decoder<R> {
        Decoder {
            stream,
            message: Vec::new(),
            at: 0,
            types: BTreeMap::new(),
        }
    }

    /// The next value of the stream.
    pub fn decode(&mut self) -> io::Result<Value> {
        self.message.clear();
        self.at = 0;
        let number = self.type_sequence(false)?;
        let value = self.top(number, 0)?;
        if self.at != self.message.len() {
            return Err(broken("a message is longer than its value"));
        }
        Ok(value)
    }

    /// Values that are no structs have a zero before them.
    fn top(&mut self, number: i64, depth: usize) -> io::Result<Value> {
        if !matches!(self.types.get(&number), Some(Known::Struct(_))) && self.uint()? != 0 {
            return Err(broken("a value does not begin with a zero"));
        }
        self.value(number, depth)
    }

    /// Reads definitions until the number of a value's type comes.
    fn type_sequence(&mut self, in_interface: bool) -> io::Result<i64> {
        loop {
            if self.at == self.message.len() {
                self.receive()?;
            }
            let number = self.int()?;
            if number >= 0 {
                return Ok(number);
            }
            self.learn(
                number
                    .checked_neg()
                    .ok_or_else(|| broken("a type's number"))?,
            )?;
            if self.at < self.message.len() {
                if !in_interface {
                    return Err(broken("something follows a definition"));
                }
                // The length of what follows inside an interface value.
                self.uint()?;
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let length = read_uint(|| {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            Ok(byte[0])
        })?;
        if length == 0 || length > MAX_MESSAGE_BYTES {
            return Err(broken(format!("a message of {length} bytes")));
        }
        // Grows as bytes come: a lying length costs nothing.
        let mut message = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut message)?;
        if message.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.message = message;
        self.at = 0;
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.message.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| broken("a message is cut off"))
    }

    fn uint(&mut self) -> io::Result<u64> {
        read_uint(|| self.byte())
    }

    fn int(&mut self) -> io::Result<i64> {
        let bits = self.uint()?;
        Ok(match bits & 1 {
            0 => (bits >> 1) as i64,
            _ => !((bits >> 1) as i64),
        })
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.count()?;
        let end = self.at + length;
        let bytes = self.message.get(self.at..end);
        let bytes = bytes.ok_or_else(|| broken("a text is cut off"))?.to_vec();
        self.at = end;
        Ok(bytes)
    }

    /// A number of things that each take a byte at least.
    fn count(&mut self) -> io::Result<usize> {
        let count = self.uint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.message.len() - self.at.min(self.message.len()))
            .ok_or_else(|| broken("a length is longer than its message"))
    }

    fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// Calls `read` for each field that is there, with its number from 0.
    fn fields(&mut self, mut read: impl FnMut(&mut Self, u64) -> io::Result<()>) -> io::Result<()> {
        let mut field = 0u64;
        loop {
            match self.uint()? {
                0 => return Ok(()),
                delta => field = field.checked_add(delta).ok_or_else(|| broken("a field"))?,
            }
            read(self, field - 1)?;
        }
    }

    /// A `wireType`: one of arrays, slices, structs, maps and types that encode themselves.
    fn learn(&mut self, number: i64) -> io::Result<()> {
        let mut known = None;
        self.fields(|decoder, kind| {
            let (mut first, mut second, mut inner) = (0, 0, Vec::new());
            decoder.fields(|decoder, field| match (kind, field) {
                // CommonType: name and number, which we have.
                (_, 0) => decoder.fields(|decoder, field| match field {
                    0 => decoder.bytes().map(drop),
                    1 => decoder.int().map(drop),
                    _ => Err(broken("a type's name")),
                }),
                (2, 1) => {
                    for _ in 0..decoder.count()? {
                        let (mut name, mut of) = (String::new(), 0);
                        decoder.fields(|decoder, field| {
                            match field {
                                0 => name = decoder.text()?,
                                1 => of = decoder.int()?,
                                _ => return Err(broken("a field's type")),
                            }
                            Ok(())
                        })?;
                        inner.push((name, of));
                    }
                    Ok(())
                }
                (_, 1) => {
                    first = decoder.int()?;
                    Ok(())
                }
                (_, 2) => {
                    second = decoder.int()?;
                    Ok(())
                }
                _ => Err(broken("a type's definition")),
            })?;
            known = Some(match kind {
                0 | 1 => Known::List(first),
                2 => Known::Struct(std::mem::take(&mut inner)),
                3 => Known::Map(first, second),
                _ => Known::Opaque,
            });
            Ok(())
        })?;
        let known = known.ok_or_else(|| broken("an empty definition"))?;
        self.types.insert(number, known);
        Ok(())
    }

    fn value(&mut self, number: i64, depth: usize) -> io::Result<Value> {
        if depth > MAX_DEPTH {
            return Err(broken("nested too deep"));
        }
        Ok(match number {
            BOOL => Value::Bool(self.uint()? != 0),
            INT => Value::Int(self.int()?),
            UINT => Value::Uint(self.uint()?),
            FLOAT => Value::Float(f64::from_bits(self.uint()?.swap_bytes())),
            BYTES => Value::Bytes(self.bytes()?),
            STRING => Value::Text(self.text()?),
            INTERFACE => {
                let name = self.text()?;
                if name.is_empty() {
                    return Ok(Value::Nil);
                }
                let number = self.type_sequence(true)?;
                // The value's length, which its type tells, too.
                self.uint()?;
                Value::Interface(name, Box::new(self.top(number, depth + 1)?))
            }
            _ => match self.types.get(&number).cloned() {
                Some(Known::Struct(types)) => {
                    let mut fields = BTreeMap::new();
                    self.fields(|decoder, field| {
                        let (name, of) = usize::try_from(field)
                            .ok()
                            .and_then(|field| types.get(field))
                            .ok_or_else(|| broken("an unknown field"))?;
                        fields.insert(name.clone(), decoder.value(*of, depth + 1)?);
                        Ok(())
                    })?;
                    Value::Struct(fields)
                }
                Some(Known::List(of)) => {
                    let mut values = Vec::new();
                    for _ in 0..self.uint()? {
                        values.push(self.value(of, depth + 1)?);
                    }
                    Value::List(values)
                }
                Some(Known::Map(key, element)) => {
                    let mut pairs = Vec::new();
                    for _ in 0..self.uint()? {
                        let key = self.value(key, depth + 1)?;
                        pairs.push((key, self.value(element, depth + 1)?));
                    }
                    Value::Map(pairs)
                }
                Some(Known::Opaque) => Value::Bytes(self.bytes()?),
                None => return Err(broken(format!("a value of the undefined type {number}"))),
            },
        })
    }
}

fn read_uint(mut byte: impl FnMut() -> io::Result<u8>) -> io::Result<u64> {
    let first = byte()?;
    if first < 128 {
        return Ok(u64::from(first));
    }
    let count = 256 - usize::from(first);
    if count > 8 {
        return Err(broken("a number of more than 64 bits"));
    }
    let mut value = 0u64;
    for _ in 0..count {
        value = (value << 8) | u64::from(byte()?);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Type {
        Type::Struct(
            "Request",
            vec![
                ("ServiceMethod", Type::Basic(STRING)),
                ("Seq", Type::Basic(UINT)),
            ],
        )
    }

    fn header(method: &str, seq: u64) -> Value {
        Value::Struct(BTreeMap::from([
            ("ServiceMethod".to_owned(), Value::Text(method.into())),
            ("Seq".to_owned(), Value::Uint(seq)),
        ]))
    }

    fn bytes(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for word in text.split_whitespace() {
            match word.strip_prefix('"') {
                Some(text) => out.extend_from_slice(text.trim_end_matches('"').as_bytes()),
                None => {
                    for pair in word.as_bytes().chunks(2) {
                        out.push(
                            u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap(),
                        );
                    }
                }
            }
        }
        out
    }

    /// What a Go program was seen to send (docker-machine 0.16 and the plug-ins it starts).
    #[test]
    fn the_bytes_are_gos() {
        let empty = Type::Struct("", Vec::new());
        let none = Value::Struct(BTreeMap::new());
        let mut encoder = Encoder::default();
        assert_eq!(
            encoder
                .encode(&request(), &header("RPCServerDriver.GetVersion", 0))
                .unwrap(),
            bytes(
                "2e 7f 03 01 01 07 \"Request\" 01 ff80 00 01 02 01 0d \"ServiceMethod\" 01 0c 00 01 03 \"Seq\" 01 06 00 00 00 \
                 1f ff80 01 1a \"RPCServerDriver.GetVersion\" 00"
            )
        );
        assert_eq!(
            encoder.encode(&empty, &none).unwrap(),
            bytes("0a ff81 03 01 02 ff82 00 00 00 03 ff82 00")
        );
        assert_eq!(
            encoder
                .encode(&request(), &header("RPCServerDriver.SetConfigRaw", 1))
                .unwrap(),
            bytes("23 ff80 01 1c \"RPCServerDriver.SetConfigRaw\" 01 01 00")
        );
        let raw = vec![b'x'; 0x9b];
        let sent = encoder
            .encode(&Type::Basic(BYTES), &Value::Bytes(raw))
            .unwrap();
        assert_eq!(sent[..6], bytes("ff9f 0a 00 ff9b"));
        assert_eq!(
            encoder
                .encode(&request(), &header("RPCServerDriver.GetMachineName", 2))
                .unwrap(),
            bytes("25 ff80 01 1e \"RPCServerDriver.GetMachineName\" 01 02 00")
        );
        assert_eq!(encoder.encode(&empty, &none).unwrap(), bytes("03 ff82 00"));
        let flags = Value::Interface(
            "*rpcdriver.RPCFlags".into(),
            Box::new(Value::Struct(BTreeMap::from([(
                "Values".to_owned(),
                Value::Map(vec![(
                    Value::Text("url".into()),
                    Value::Interface(
                        "string".into(),
                        Box::new(Value::Text("tcp://127.0.0.1:2376".into())),
                    ),
                )]),
            )]))),
        );
        let sent = encoder.encode(&Type::Basic(INTERFACE), &flags).unwrap();
        let begin = bytes("38 10 00 13 \"*rpcdriver.RPCFlags\" ff83 03 01 01 08 \"RPCFlags\"");
        assert_eq!(sent[..begin.len()], begin);
        // The first message ends where the definition does.
        assert_eq!(sent[0x38 - 1..0x39], [0, 0]);
        let end = bytes("01 01 03 \"url\" 06 \"string\" 0c 16 00 14 \"tcp://127.0.0.1:2376\" 00");
        assert!(sent.ends_with(&end), "{sent:02x?}");
        let mut decoder = Decoder::new(&sent[..]);
        assert_eq!(decoder.decode().unwrap(), flags);
    }

    #[test]
    fn answers_of_go_are_read() {
        let stream = bytes(
            "39 7f 03 01 01 08 \"Response\" 01 ff80 00 01 03 01 0d \"ServiceMethod\" 01 0c 00 01 03 \"Seq\" 01 06 00 \
             01 05 \"Error\" 01 0c 00 00 00 1f ff80 01 1a \"RPCServerDriver.GetVersion\" 00 03 04 00 02 \
             0e 0c 00 0b \"flag-lookup\"",
        );
        let mut decoder = Decoder::new(&stream[..]);
        let header = decoder.decode().unwrap();
        assert_eq!(
            header.field("ServiceMethod").and_then(Value::text),
            Some("RPCServerDriver.GetVersion")
        );
        assert_eq!(decoder.decode().unwrap(), Value::Int(1));
        assert_eq!(decoder.decode().unwrap(), Value::Text("flag-lookup".into()));
        assert!(decoder.decode().is_err());
    }

    fn flag(name: &str, value: Option<Value>) -> Value {
        let mut fields = BTreeMap::from([("Name".to_owned(), Value::Text(name.into()))]);
        let of = match &value {
            None => "*mcnflag.BoolFlag",
            Some(Value::Int(_)) => "*mcnflag.IntFlag",
            Some(Value::List(_)) => "*mcnflag.StringSliceFlag",
            Some(_) => "*mcnflag.StringFlag",
        };
        if let Some(value) = value {
            fields.insert("Value".to_owned(), value);
        }
        Value::Interface(of.into(), Box::new(Value::Struct(fields)))
    }

    /// New types inside a list of interfaces cut the message; types inside interfaces inside interfaces do not.
    #[test]
    fn interfaces_survive_wherever_their_types_are_new() {
        let texts = Value::List(vec![Value::Text("a".into()), Value::Text(String::new())]);
        let list = Value::List(vec![
            flag("text", Some(Value::Text("x".into()))),
            flag("list", Some(texts.clone())),
            flag("number", Some(Value::Int(-7))),
            flag("switch", None),
            flag("text2", Some(Value::Text("y".into()))),
            Value::Nil,
        ]);
        let of = Type::Slice(Box::new(Type::Basic(INTERFACE)));
        let mut encoder = Encoder::default();
        let mut stream = encoder.encode(&of, &list).unwrap();
        let boxed = |name: &str, value: Value| Value::Interface(name.into(), Box::new(value));
        let values = Value::Map(vec![
            (Value::Text("a".into()), boxed("[]string", texts)),
            (Value::Text("b".into()), boxed("bool", Value::Bool(false))),
            (Value::Text("c".into()), boxed("int", Value::Int(0))),
            (
                Value::Text("d".into()),
                boxed("[]string", Value::List(Vec::new())),
            ),
        ]);
        let flags = boxed(
            "*rpcdriver.RPCFlags",
            Value::Struct(BTreeMap::from([("Values".to_owned(), values)])),
        );
        // A second stream, so that `[]string` is new inside the inner interface.
        let fresh = Encoder::default()
            .encode(&Type::Basic(INTERFACE), &flags)
            .unwrap();
        assert_eq!(Decoder::new(&fresh[..]).decode().unwrap(), flags);
        stream.extend(encoder.encode(&Type::Basic(INTERFACE), &flags).unwrap());
        let mut decoder = Decoder::new(&stream[..]);
        assert_eq!(decoder.decode().unwrap(), list);
        assert_eq!(decoder.decode().unwrap(), flags);
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: i64, other: u64, text in ".*") {
            for (of, value) in [
                (Type::Basic(INT), Value::Int(number)),
                (Type::Basic(UINT), Value::Uint(other)),
                (Type::Basic(STRING), Value::Text(text)),
            ] {
                let sent = Encoder::default().encode(&of, &value).unwrap();
                prop_assert_eq!(Decoder::new(&sent[..]).decode().unwrap(), value);
            }
        }

        /// Whatever a plug-in sends, reading it ends, without a panic.
        #[test]
        fn nonsense_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new(&bytes[..]);
            for _ in 0..20 {
                if decoder.decode().is_err() {
                    break;
                }
            }
        }
    }
}
