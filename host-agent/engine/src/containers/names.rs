//! Container names: the rule, and names for those who do not care.

/// Takes a name with or without a slash in front; `None` breaks Docker's rule `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn parse(text: &str) -> Option<&str> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let mut bytes = name.bytes();
    let first = bytes.next()?;
    let rest_is_good = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (first.is_ascii_alphanumeric() && name.len() >= 2 && rest_is_good).then_some(name)
}

/// Docker's sentence for a bad name.
pub fn refusal(text: &str) -> String {
    format!("Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
}

/// Two words; after a few misses the caller asks for `attempt` > 0 and gets a digit as well.
pub fn generate(attempt: u32) -> String {
    let mut bytes = [0u8; 5];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    let pick = |words: &'static [&'static str], low: u8, high: u8| {
        words[usize::from(u16::from_le_bytes([low, high])) % words.len()]
    };
    let adjective = pick(ADJECTIVES, bytes[0], bytes[1]);
    let sailor = pick(SAILORS, bytes[2], bytes[3]);
    if attempt == 0 {
        format!("{adjective}_{sailor}")
    } else {
        format!("{adjective}_{sailor}{}", bytes[4] % 10)
    }
}

#[rustfmt::skip]
const ADJECTIVES: &[&str] = &[
    "able", "agile", "airy", "amber", "ample", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk",
    "buoyant", "calm", "candid", "cheery", "clear", "clever", "coastal", "cobalt", "copper", "cosy", "crisp", "curious",
    "dapper", "daring", "deft", "eager", "early", "earnest", "easy", "elegant", "even", "fabled", "fair", "faithful",
    "fearless", "fleet", "fluent", "fond", "frank", "free", "fresh", "gallant", "gentle", "gilded", "glad", "golden",
    "graceful", "grand", "hale", "handy", "happy", "hardy", "hearty", "honest", "humble", "ideal", "jolly", "keen",
    "kind", "lively", "loyal", "lucid", "lucky", "lunar", "mellow", "merry", "mighty", "mild", "modest", "neat",
    "nimble", "noble", "northern", "orderly", "patient", "placid", "plucky", "polished", "prompt", "proud", "quick", "quiet",
    "ready", "robust", "rosy", "rugged", "salty", "serene", "sharp", "silver", "sincere", "snug", "solar", "solid",
    "spry", "stable", "steady", "stout", "sturdy", "sunny", "swift", "tidal", "tidy", "tranquil", "trim", "trusty",
    "upbeat", "useful", "valiant", "vivid", "warm", "watchful", "western", "willing", "windy", "wise", "witty", "zesty",
];

/// People of the sea and of the charts.
#[rustfmt::skip]
const SAILORS: &[&str] = &[
    "amundsen", "baffin", "banks", "baret", "barents", "bass", "beaufort", "bering", "bonny", "bougainville", "bowditch", "brendan",
    "cabot", "cabral", "cartier", "champlain", "chichester", "columbus", "cook", "cousteau", "dampier", "davis", "diaz", "drake",
    "earle", "elcano", "erikson", "fitzroy", "flinders", "franklin", "frobisher", "gama", "gerlache", "hanno", "harrison", "hawkins",
    "henson", "hudson", "humboldt", "huntsman", "joyon", "knox", "laperouse", "lovell", "macarthur", "mackenzie", "magellan", "marquette",
    "maury", "mercator", "moitessier", "nansen", "nelson", "nearchus", "ortelius", "peary", "piccard", "polo", "pytheas", "quiros",
    "raleigh", "ross", "scoresby", "scott", "shackleton", "slocum", "stark", "tabarly", "tasman", "tharp", "torres", "tupaia",
    "vancouver", "verrazzano", "vespucci", "weddell", "wilkes", "zheng",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(parse(text), expected, "{text:?}");
    }

    #[test]
    fn docker_s_rule_for_names() {
        check("web", Some("web"));
        check("/web", Some("web"));
        check("a1", Some("a1"));
        check("A_.-z", Some("A_.-z"));
        check("a", None);
        check("", None);
        check("/", None);
        check("-web", None);
        check("web server", None);
        check("//web", None);
        check("wéb", None);
    }

    proptest! {
        #[test]
        fn generated_names_keep_the_rule(attempt in 0u32..3) {
            let name = generate(attempt);
            prop_assert_eq!(parse(&name), Some(name.as_str()));
        }

        #[test]
        fn whatever_is_accepted_is_only_of_the_allowed_letters(text in ".{0,12}") {
            if let Some(name) = parse(&text) {
                prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)));
            }
        }
    }
}
