//! `a=1,"b=2,3"`: the lists of `RUN --mount` and of the client's options. One line of CSV (RFC 4180), as Docker reads them.

/// A quote where none can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    #[error("bare \" in non-quoted-field")]
    Bare,
    #[error("extraneous or missing \" in quoted-field")]
    Open,
}

/// The fields, without their quotes.
pub fn split(text: &str) -> Result<Vec<String>, FieldsError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(inside) => quoted(inside)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err(FieldsError::Bare);
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// A field whose first quote was read, and what follows its last one.
fn quoted(text: &str) -> Result<(String, &str), FieldsError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or(FieldsError::Open)?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None if rest.is_empty() || rest.starts_with(',') => return Ok((field, rest)),
            None => return Err(FieldsError::Open),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_csv() {
        for (text, expected) in [
            ("a=1,b", &["a=1", "b"][..]),
            ("a,\"b=2,3\",c", &["a", "b=2,3", "c"]),
            ("\"a \"\"b\"\"\"", &["a \"b\""]),
            ("a,,", &["a", "", ""]),
            ("", &[""]),
            ("\"\"", &[""]),
        ] {
            assert_eq!(split(text).expect(text), expected, "{text}");
        }
        assert_eq!(split("a=\"b\""), Err(FieldsError::Bare));
        assert_eq!(split("\"a"), Err(FieldsError::Open));
        assert_eq!(split("\"a\"b"), Err(FieldsError::Open));
    }
}
