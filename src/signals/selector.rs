//! A strict parser of series selectors: what an agent writes is never pasted into a query, only what was understood.
//!
//! The API server checks the same grammar; an edited CRD or an old object may still bring anything. Must not accept an
//! expression, a quote inside a value, or a label that is not the agent's to choose.

use std::fmt;

/// Longest selector that is read.
const MAX_LENGTH: usize = 256;

/// A metric name with label matchers, as it was understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    name: String,
    matchers: Vec<Matcher>,
}

/// One label matcher.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Matcher {
    label: String,
    operator: &'static str,
    value: String,
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a series: {why}; write a metric name with label matchers, such as refunds_total{{result=\"match\"}}"
)]
pub struct SelectorError {
    text: String,
    why: &'static str,
}

impl Selector {
    /// Reads a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse(text).map_err(|why| SelectorError { text: text.chars().take(60).collect(), why })
    }

    /// The same series with another name: `h` becomes `h_bucket`.
    pub(super) fn with_suffix(&self, suffix: &str) -> Self {
        Self { name: format!("{}{suffix}", self.name), matchers: self.matchers.clone() }
    }

    /// The same series with one more matcher, made by Sluice itself.
    pub(super) fn and(&self, label: &str, operator: &'static str, value: &str) -> Self {
        let mut all = self.clone();
        all.matchers.push(Matcher { label: label.to_owned(), operator, value: value.to_owned() });
        all
    }

    /// Whether it says anything about a label.
    pub(super) fn names(&self, label: &str) -> bool {
        self.matchers.iter().any(|matcher| matcher.label == label)
    }

    /// The metric's name.
    pub(super) fn metric(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, matcher) in self.matchers.iter().enumerate() {
            let before = if i == 0 { "{" } else { "," };
            write!(f, "{before}{}{}\"{}\"", matcher.label, matcher.operator, matcher.value)?;
        }
        f.write_str(if self.matchers.is_empty() { "" } else { "}" })
    }
}

/// Whether a text can be a label's name. Those that begin with two underscores are Prometheus' own.
pub(super) fn is_label(text: &str) -> bool {
    !text.starts_with("__") && is_word(text, |c| c.is_ascii_alphabetic() || c == '_')
}

fn is_word(text: &str, first: fn(char) -> bool) -> bool {
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn parse(text: &str) -> Result<Selector, &'static str> {
    if text.len() > MAX_LENGTH {
        return Err("it is longer than 256 characters");
    }
    let (name, rest) = match text.split_once('{') {
        None => (text, None),
        Some((name, rest)) => (name, Some(rest)),
    };
    if !is_word(name, |c| c.is_ascii_alphabetic() || c == '_' || c == ':') {
        return Err("it does not begin with a metric name");
    }
    let matchers = match rest {
        None => Vec::new(),
        Some(rest) => parse_matchers(rest)?,
    };
    Ok(Selector { name: name.to_owned(), matchers })
}

/// Reads what follows the opening brace, which must end with the closing one.
fn parse_matchers(text: &str) -> Result<Vec<Matcher>, &'static str> {
    let mut matchers = Vec::new();
    let mut rest = text;
    if rest == "}" {
        return Ok(matchers);
    }
    loop {
        let (matcher, after) = parse_matcher(rest)?;
        matchers.push(matcher);
        match after.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(' '),
            None if after == "}" => return Ok(matchers),
            None => return Err("after a label matcher comes ',' or the closing '}'"),
        }
    }
}

fn parse_matcher(text: &str) -> Result<(Matcher, &str), &'static str> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).ok_or("a label matcher is not complete")?;
    let (label, rest) = text.split_at(end);
    if !is_label(label) {
        return Err("a label's name is letters, digits and '_', and does not begin with a digit or '__'");
    }
    let operator = ["=~", "!~", "!=", "="]
        .into_iter()
        .find(|operator| rest.starts_with(operator))
        .ok_or("a label is compared with =, !=, =~ or !~")?;
    let rest = rest[operator.len()..].strip_prefix('"').ok_or("a label's value stands in double quotes")?;
    let (value, rest) = rest.split_once('"').ok_or("a label's value is not closed")?;
    if value.chars().any(|c| matches!(c, '\\' | '{' | '}') || c.is_control()) {
        return Err("a label's value holds no backslash, brace or control character");
    }
    let matcher = Matcher { label: label.to_owned(), operator, value: value.to_owned() };
    Ok((matcher, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_selector_is_written_as_it_was_understood() {
        for (text, expected) in [
            ("up", "up"),
            ("up{}", "up"),
            ("job:runs:rate5m", "job:runs:rate5m"),
            (r#"a{b="c"}"#, r#"a{b="c"}"#),
            (r#"a{b="c",  d!~"e|f.*"}"#, r#"a{b="c",d!~"e|f.*"}"#),
            (r#"a{b=~"",c!="x y, z) or ("}"#, r#"a{b=~"",c!="x y, z) or ("}"#),
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn nothing_but_a_selector_is_accepted() {
        for text in [
            "",
            " up",
            "up ",
            "1up",
            "up or secrets",
            "up) or (secrets",
            "sum(up)",
            "up[5m]",
            "up offset 5m",
            "up # comment",
            "up{",
            "up{}}",
            "up{} or secrets{}",
            r#"{__name__="up"}"#,
            r#"up{__name__="secrets"}"#,
            r#"up{a="b"} or secrets{a="b"}"#,
            r#"up{a="b" or c="d"}"#,
            r#"up{a="b"}[5m]"#,
            r#"up{a="b\"} or secrets{c=\"d"}"#,
            r#"up{a="\"}"#,
            r#"up{a="}"}"#,
            r#"up{a="{"}"#,
            "up{a=\"b\nc\"}",
            "up{a=\"b\rc\"}",
            "up{a=\"b\0c\"}",
            "up{a='b'}",
            "up{a=`b`}",
            r#"up{a=="b"}"#,
            r#"up{a="b",}"#,
            r#"up{,a="b"}"#,
            r#"up{ a="b"}"#,
            r#"up{a ="b"}"#,
            r#"up{"a"="b"}"#,
            r#"up{ä="b"}"#,
            "üp",
        ] {
            let error = Selector::parse(text).expect_err(text).to_string();
            assert!(error.contains("is not a series"), "{error}");
        }
        assert!(Selector::parse(&"a".repeat(257)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_the_same_again_and_cannot_close_its_braces(text in r#"[a-z_:]{1,3}\{?([a-z]{1,2}(=|!=|=~|!~)"[ -~]{0,4}",? ?){0,3}\}?[ -~]{0,3}"#) {
            if let Ok(selector) = Selector::parse(&text) {
                let written = selector.to_string();
                prop_assert_eq!(&Selector::parse(&written).unwrap(), &selector);
                prop_assert_eq!(written.matches('{').count(), usize::from(!selector.matchers.is_empty()));
                prop_assert_eq!(written.matches('{').count(), written.matches('}').count());
                prop_assert!(!written.contains('\\'));
                prop_assert_eq!(written.matches('"').count(), 2 * selector.matchers.len());
            }
        }
    }
}
