//! Go's `encoding/gob`, as far as docker-machine's plug-ins speak it (<https://pkg.go.dev/encoding/gob>, "Encoding Details").
//!
//! A stream is a row of messages: a length, a type's number, and either the definition of a type (the number is negative)
//! or a value. Types are defined once, before their first value. An interface value carries its concrete type's name; where that type is
//! new, its definition cuts the message in two.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::Decoder;
pub use write::Encoder;

use std::collections::BTreeMap;
use std::io;

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
