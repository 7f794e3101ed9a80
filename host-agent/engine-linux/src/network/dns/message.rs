//! DNS messages, as much of them as answering for containers needs: a question is read, an answer of addresses or a name is
//! written. Everything else is passed on as it came. Format: RFC 1035 section 4, RFC 3596 (AAAA), RFC 6891 (EDNS).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const OPT: u16 = 41;
const IN: u16 = 1;
const HEADER: usize = 12;
/// Without EDNS a UDP answer has at most so many bytes.
const PLAIN_UDP: usize = 512;
/// Seconds an answer may be remembered; Docker's number.
const TTL: u32 = 600;
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// Outcomes of a question (RFC 1035, `RCODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Fine = 0,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
}

/// A question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Lower case, without the dot at the end.
    pub name: String,
    pub kind: u16,
    /// Where the question ends in the message.
    end: usize,
    /// Bytes a UDP answer may have.
    pub udp_size: usize,
}

/// What an answer tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    Name(String),
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([
        *message.get(at)?,
        *message.get(at + 1)?,
    ]))
}

/// Reads a message with one question of the internet's class. `None`: it is something else.
pub(super) fn read(message: &[u8]) -> Option<Question> {
    let flags = *message.get(2)?;
    // A response, or an operation other than a query.
    if flags & 0xf8 != 0 || number(message, 4)? != 1 {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // In a question there is nothing yet that a pointer could point at.
        if length > 63 || name.len() > 255 {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    let (kind, class) = (number(message, at)?, number(message, at + 2)?);
    let end = at + 4;
    if class != IN {
        return None;
    }
    Some(Question {
        name,
        kind,
        end,
        udp_size: udp_size(message, end).unwrap_or(PLAIN_UDP),
    })
}

/// The size in an OPT record right behind the question, where every client puts it.
fn udp_size(message: &[u8], end: usize) -> Option<usize> {
    let alone = number(message, 6)? == 0 && number(message, 8)? == 0 && number(message, 10)? > 0;
    let is_opt = *message.get(end)? == 0 && number(message, end + 1)? == OPT;
    let size = usize::from(number(message, end + 3)?);
    (alone && is_opt).then_some(size.clamp(PLAIN_UDP, 4096))
}

/// The address that a reverse name (`2.0.18.172.in-addr.arpa`) asks for.
pub(super) fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = rest.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut value: u128 = 0;
    let mut digits = 0;
    for (place, part) in rest.split('.').enumerate() {
        let digit = u128::from_str_radix(part, 16)
            .ok()
            .filter(|_| part.len() == 1)?;
        if place >= 32 {
            return None;
        }
        value |= digit << (4 * place);
        digits += 1;
    }
    (digits == 32).then(|| Ipv6Addr::from(value).into())
}

/// The answer to `query`, of at most `limit` bytes: what does not fit is left out, and said so.
pub(super) fn answer(
    query: &[u8],
    question: &Question,
    code: Code,
    records: &[Record],
    limit: usize,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(question.end + 32 * records.len());
    message.extend_from_slice(&query[..2]);
    message.push(RESPONSE | (query[2] & RECURSION_DESIRED));
    message.push(RECURSION_AVAILABLE | code as u8);
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&query[HEADER..question.end]);
    let mut count: u16 = 0;
    for record in records {
        let before = message.len();
        // The name: where the question has it.
        message.extend_from_slice(&[0xc0, HEADER as u8]);
        let (kind, data) = match record {
            Record::Address(IpAddr::V4(address)) => (A, address.octets().to_vec()),
            Record::Address(IpAddr::V6(address)) => (AAAA, address.octets().to_vec()),
            Record::Name(name) => (PTR, labels(name)),
        };
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&IN.to_be_bytes());
        message.extend_from_slice(&TTL.to_be_bytes());
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(&data);
        if message.len() > limit {
            message.truncate(before);
            message[2] |= TRUNCATED;
            break;
        }
        count += 1;
    }
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

/// The outcome a response tells, if it is one to this query.
pub(super) fn outcome_of(response: &[u8], query: &[u8]) -> Option<u8> {
    let same = response.len() >= HEADER && query.len() >= 2 && response[..2] == query[..2];
    (same && response[2] & RESPONSE != 0).then(|| response[3] & 0x0f)
}

#[cfg(test)]
pub(super) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(labels(name));
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&IN.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_and_answered() {
        let query = question(7, "Web.Front", A);
        let asked = read(&query).unwrap();
        assert_eq!(
            (asked.name.as_str(), asked.kind, asked.udp_size),
            ("web.front", A, 512)
        );
        let one = Record::Address([10, 1, 2, 3].into());
        let reply = answer(&query, &asked, Code::Fine, &[one.clone(), one.clone()], 512);
        assert_eq!(outcome_of(&reply, &query), Some(0));
        assert_eq!(number(&reply, 6), Some(2));
        assert!(
            reply.ends_with(&[0, 0, 2, 88, 0, 4, 10, 1, 2, 3]),
            "{reply:?}"
        );
        let many = vec![one; 100];
        let reply = answer(&query, &asked, Code::Fine, &many, 512);
        assert!(reply.len() <= 512 && reply[2] & TRUNCATED != 0);
        let whole = answer(&query, &asked, Code::Fine, &many, 65_535);
        assert_eq!((number(&whole, 6), whole[2] & TRUNCATED), (Some(100), 0));
        assert!(read(&reply).is_none(), "a response is no question");
    }

    #[test]
    fn edns_says_how_much_a_client_takes() {
        let mut query = question(7, "a", A);
        query[11] = 1;
        query.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&query).unwrap().udp_size, 4096);
    }

    #[test]
    fn reverse_names() {
        assert_eq!(
            reversed("2.0.18.172.in-addr.arpa"),
            Some([172, 18, 0, 2].into())
        );
        assert_eq!(reversed("0.18.172.in-addr.arpa"), None);
        assert_eq!(reversed("1.2.0.18.172.in-addr.arpa"), None);
        let nibbles = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(reversed(nibbles), Some("fd00::2".parse().unwrap()));
        assert_eq!(reversed("web"), None);
        let query = question(1, "2.0.18.172.in-addr.arpa", PTR);
        let asked = read(&query).unwrap();
        let reply = answer(
            &query,
            &asked,
            Code::Fine,
            &[Record::Name("web.front".into())],
            512,
        );
        assert!(reply.ends_with(b"\x03web\x05front\0"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Some(asked) = read(&bytes) {
                let _ = answer(&bytes, &asked, Code::Fine, &[Record::Address([1, 2, 3, 4].into())], 512);
            }
            let _ = outcome_of(&bytes, &bytes);
        }

        #[test]
        fn any_text_is_a_reverse_name_or_not(text in ".{0,40}") {
            let _ = reversed(&text);
            let _ = reversed(&format!("{text}.ip6.arpa"));
        }
    }
}
