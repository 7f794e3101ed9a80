//! The `filters` query parameter: JSON, either `{"name": ["a", "b"]}` or, from Go clients, `{"name": {"a": true}}`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names and the values asked for. Different names must all match; of one name's values any one, but every `label`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Why filters are refused; Docker's texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// Not JSON of either form.
    Malformed,
    /// No such filter here.
    Unknown { name: String },
    /// The filter does not take this value.
    Value { name: String, values: Vec<String> },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Malformed => f.write_str("invalid filter"),
            FilterError::Unknown { name } => write!(f, "invalid filter '{name}'"),
            FilterError::Value { name, values } => {
                write!(f, "invalid filter '{name}=[{}]'", values.join(" "))
            }
        }
    }
}

impl std::error::Error for FilterError {}

impl Filters {
    /// Reads the query parameter's text; an empty one is no filter.
    pub fn parse(text: &str) -> Result<Filters, FilterError> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let Ok(Value::Object(object)) = serde_json::from_str(text) else {
            return Err(FilterError::Malformed);
        };
        let mut filters = BTreeMap::new();
        for (name, values) in object {
            let values: BTreeSet<String> = match values {
                Value::Null => BTreeSet::new(),
                Value::Array(list) => list
                    .into_iter()
                    .map(|value| match value {
                        Value::String(text) => Ok(text),
                        _ => Err(FilterError::Malformed),
                    })
                    .collect::<Result<_, _>>()?,
                // Docker does not look at the booleans: naming a value is what counts.
                Value::Object(map) => {
                    if map.values().any(|value| !value.is_boolean()) {
                        return Err(FilterError::Malformed);
                    }
                    map.into_iter().map(|(value, _)| value).collect()
                }
                _ => return Err(FilterError::Malformed),
            };
            filters.insert(name, values);
        }
        Ok(Filters(filters))
    }

    /// From pairs, for tests and for callers in process.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Filters {
        let mut filters = Filters::default();
        for (name, value) in pairs {
            filters
                .0
                .entry(name.to_owned())
                .or_default()
                .insert(value.to_owned());
        }
        filters
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the filter was given at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The values of one filter; none if it was not given.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(name)
            .into_iter()
            .flat_map(|values| values.iter().map(String::as_str))
    }

    /// Refuses every filter that is not in `accepted`.
    pub fn only(&self, accepted: &[&str]) -> Result<(), FilterError> {
        match self
            .0
            .keys()
            .find(|name| !accepted.contains(&name.as_str()))
        {
            Some(name) => Err(FilterError::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// A two-way filter (`dangling=true`); `None` where it was not given.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.0.get(name).filter(|values| !values.is_empty()) else {
            return Ok(None);
        };
        let truth = |text: &str| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        let mut read = values.iter().map(|value| truth(value));
        match (read.next().flatten(), read.next()) {
            (Some(value), None) => Ok(Some(value)),
            _ => Err(FilterError::Value {
                name: name.to_owned(),
                values: values.iter().cloned().collect(),
            }),
        }
    }

    /// Whether `value` is one of the filter's values; true where the filter was not given.
    pub fn exact(&self, name: &str, value: &str) -> bool {
        match self.0.get(name) {
            Some(values) if !values.is_empty() => values.contains(value),
            _ => true,
        }
    }

    /// Whether all `label` filters (`key` or `key=value`) hold, and no `label!` one does.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").all(holds) && !self.values("label!").any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let list = Filters::parse(r#"{"label":["a=1","b"],"dangling":["true"]}"#).unwrap();
        let map = Filters::parse(r#"{"label":{"a=1":true,"b":true},"dangling":{"true":true}}"#);
        assert_eq!(list, map.unwrap());
        assert_eq!(Filters::parse("").unwrap(), Filters::default());
        for bad in [
            "[]",
            "x",
            r#"{"a":1}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"b":"c"}}"#,
        ] {
            assert_eq!(Filters::parse(bad), Err(FilterError::Malformed), "{bad}");
        }
    }

    #[test]
    fn labels_must_all_hold() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(Filters::of([("label", "a")]).labels(&labels));
        assert!(Filters::of([("label", "a=1")]).labels(&labels));
        assert!(!Filters::of([("label", "a=1"), ("label", "b")]).labels(&labels));
        assert!(!Filters::of([("label!", "a")]).labels(&labels));
        assert!(Filters::default().labels(&labels));
    }

    #[test]
    fn a_flag_is_one_truth_value() {
        assert_eq!(
            Filters::of([("dangling", "1")]).flag("dangling"),
            Ok(Some(true))
        );
        assert_eq!(Filters::default().flag("dangling"), Ok(None));
        assert_eq!(
            Filters::of([("dangling", "perhaps")])
                .flag("dangling")
                .unwrap_err()
                .to_string(),
            "invalid filter 'dangling=[perhaps]'"
        );
        assert_eq!(
            Filters::of([("x", "y")])
                .only(&["label"])
                .unwrap_err()
                .to_string(),
            "invalid filter 'x'"
        );
    }
}
