//! Filters whose values are regular expressions.

use engine_api::Filters;
use regex::Regex;

/// The values of one filter, as Docker reads them for names and ids: a regular expression, which fits any part, or, where
/// it is none, a text that fits only itself.
pub(crate) struct Patterns(Vec<Pattern>);

enum Pattern {
    Regex(Regex),
    Plain(String),
}

impl Patterns {
    pub(crate) fn of(filters: &Filters, name: &str) -> Patterns {
        let pattern = |value: &str| match Regex::new(value) {
            Ok(regex) => Pattern::Regex(regex),
            Err(_) => Pattern::Plain(value.to_owned()),
        };
        Patterns(filters.values(name).map(pattern).collect())
    }

    /// Whether one pattern fits one of the texts; true where there is no filter.
    pub(crate) fn fit(&self, texts: &[&str]) -> bool {
        let one = |pattern: &Pattern| {
            texts.iter().any(|text| match pattern {
                Pattern::Regex(regex) => regex.is_match(text),
                Pattern::Plain(plain) => plain == text,
            })
        };
        self.0.is_empty() || self.0.iter().any(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_regular_expressions() {
        let fits = |pattern: &str, name: &str| {
            let filters = Filters::of([("name", pattern)]);
            Patterns::of(&filters, "name").fit(&[name, &format!("/{name}")])
        };
        assert!(fits("web", "my-web-1"));
        assert!(fits("^/web-1$", "web-1"));
        assert!(fits("^web-1$", "web-1"));
        assert!(!fits("^web$", "web-1"));
        assert!(fits("web-[0-9]+$", "web-12"));
        assert!(fits("^(a|b)$", "b"));
        assert!(!fits("we(b", "web"), "no regular expression");
        assert!(Patterns::of(&Filters::default(), "name").fit(&["x"]));
    }
}
