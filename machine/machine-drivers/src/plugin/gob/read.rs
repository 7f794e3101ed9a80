//! Reading a stream, which another's program wrote.

use super::*;
use std::io::Read;

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
