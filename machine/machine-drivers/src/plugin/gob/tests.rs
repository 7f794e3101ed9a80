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
                    out.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
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
