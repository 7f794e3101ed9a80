//! Identifiers. Containers, execs and networks have 64 lower-case hex digits, as Docker's have.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new random identifier.
            pub fn random() -> $name {
                $name(random_hex())
            }

            /// Takes 64 lower-case hex digits; anything else is `None`.
            pub fn parse(text: &str) -> Option<$name> {
                is_full_id(text).then(|| $name(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits: what people see.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A container.
    ContainerId
);
identifier!(
    /// A process started with exec.
    ExecId
);
identifier!(
    /// A network.
    NetworkId
);

/// Whether `text` is 64 lower-case hex digits.
pub fn is_full_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex() -> String {
    loop {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).expect("the kernel has random numbers");
        let text = hex::encode(bytes);
        // Docker's rule: the short form must not be all digits, or a hostname made of it looks like a number.
        if text[..12].bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_is_a_full_id_and_parses() {
        let id = ContainerId::random();
        assert_eq!(ContainerId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.short().len(), 12);
        assert_eq!(ContainerId::parse("ABC"), None);
    }
}
