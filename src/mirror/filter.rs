//! Which names of a source are mirrored, and which rule says so. Knows nothing of topics but names.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// A compiled pattern may take this much memory; a larger one is refused.
const REGEX_BYTES: usize = 1 << 20;

/// Names that begin so belong to the cluster or its tools; they are never mirrored.
const INTERNAL_PREFIX: &str = "__";

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// An empty pattern names nothing.
    #[error("a pattern is empty")]
    Empty,
    /// The text between the slashes is no regular expression, or is too large a one.
    #[error("pattern {pattern} is no usable regular expression")]
    Regex {
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// A character that no topic name has: most likely a wildcard in the wrong place.
    #[error(
        "pattern {pattern:?} can match no topic: a literal has letters, digits, '.', '_' and '-', \
         a prefix ends in '*', a regular expression stands between slashes"
    )]
    Character {
        /// The pattern as written.
        pattern: String,
    },
}

/// One pattern of a filter.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    kind: PatternKind,
}

#[derive(Clone, Debug)]
enum PatternKind {
    Literal,
    Prefix(String),
    /// Matches the whole name.
    Regex(Regex),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let kind =
            if let Some(inner) = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
                PatternKind::Regex(whole_name(inner).map_err(|source| FilterError::Regex {
                    pattern: text.to_owned(),
                    source: Box::new(source),
                })?)
            } else if text.is_empty() {
                return Err(FilterError::Empty);
            } else {
                let name = text.strip_suffix('*').unwrap_or(text);
                if !name.bytes().all(is_name_byte) {
                    return Err(FilterError::Character { pattern: text.to_owned() });
                }
                match text.strip_suffix('*') {
                    Some(prefix) => PatternKind::Prefix(prefix.to_owned()),
                    None => PatternKind::Literal,
                }
            };
        let text = text.to_owned();
        Ok(Self { text, kind })
    }

    fn matches(&self, name: &str) -> bool {
        match &self.kind {
            PatternKind::Literal => self.text == name,
            PatternKind::Prefix(prefix) => name.starts_with(prefix),
            PatternKind::Regex(regex) => regex.is_match(name),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// `a|b` must not match `ab`: the group makes the anchors hold for every alternative. The pattern is
/// compiled alone first, so that `a)(b` is refused instead of closing our group.
fn whole_name(pattern: &str) -> Result<Regex, regex::Error> {
    let compile = |text: &str| RegexBuilder::new(text).size_limit(REGEX_BYTES).build();
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

/// What a filter says of one name, and why.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Mirrored, by this `include` pattern (the first that matches).
    Included(&'a Pattern),
    /// Not mirrored, by this `exclude` pattern (the first that matches).
    Excluded(&'a Pattern),
    /// Not mirrored: the name begins with `__`.
    Internal,
    /// Not mirrored: no `include` pattern matches.
    NotIncluded,
}

impl Decision<'_> {
    /// Whether the name is mirrored.
    pub fn is_included(self) -> bool {
        matches!(self, Self::Included(_))
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Included(pattern) => write!(f, "included by {pattern}"),
            Self::Excluded(pattern) => write!(f, "excluded by {pattern}"),
            Self::Internal => {
                write!(f, "internal: names that begin with {INTERNAL_PREFIX} are never mirrored")
            }
            Self::NotIncluded => f.write_str("not included by any pattern"),
        }
    }
}

/// The `include` and `exclude` patterns of a link. Nothing unless included; exclude wins.
#[derive(Clone, Debug, Default)]
pub struct TopicFilter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl TopicFilter {
    /// A filter from patterns as written in the configuration: a literal name, `prefix*`, or
    /// `/regex/`, which has to match the whole name.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, FilterError> {
        let parse = |patterns: &[String]| -> Result<Vec<_>, FilterError> {
            patterns.iter().map(|text| Pattern::parse(text)).collect()
        };
        Ok(Self { include: parse(include)?, exclude: parse(exclude)? })
    }

    /// What becomes of a topic of this name, and which rule decides.
    pub fn decide(&self, name: &str) -> Decision<'_> {
        if name.starts_with(INTERNAL_PREFIX) {
            return Decision::Internal;
        }
        if let Some(pattern) = self.exclude.iter().find(|p| p.matches(name)) {
            return Decision::Excluded(pattern);
        }
        match self.include.iter().find(|p| p.matches(name)) {
            Some(pattern) => Decision::Included(pattern),
            None => Decision::NotIncluded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> TopicFilter {
        let owned =
            |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        TopicFilter::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn nothing_is_mirrored_unless_included() {
        let filter = filter(&[], &[]);
        assert!(matches!(filter.decide("orders"), Decision::NotIncluded));
    }

    #[test]
    fn the_rule_that_decides_is_named() {
        let filter = filter(&["orders", "payments.*", "/^eu-(a|b)$/"], &["payments.secret*"]);
        for (name, decision) in [
            ("orders", "included by orders"),
            ("orders2", "not included by any pattern"),
            ("payments.", "included by payments.*"),
            ("payments.eu", "included by payments.*"),
            ("payments.secret.x", "excluded by payments.secret*"),
            ("eu-a", "included by /^eu-(a|b)$/"),
            ("eu-ab", "not included by any pattern"),
        ] {
            assert_eq!(filter.decide(name).to_string(), decision, "{name}");
        }
    }

    #[test]
    fn internal_names_are_never_mirrored() {
        let filter = filter(&["*", "__consumer_offsets"], &[]);
        assert!(matches!(filter.decide("__consumer_offsets"), Decision::Internal));
        assert!(filter.decide("_schemas").is_included());
    }

    #[test]
    fn a_regex_has_to_match_the_whole_name() {
        let filter = filter(&["/a|b/", "/c|cd/"], &[]);
        for (name, included) in
            [("a", true), ("b", true), ("ab", false), ("xb", false), ("cd", true), ("cde", false)]
        {
            assert_eq!(filter.decide(name).is_included(), included, "{name}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        for pattern in ["", "a*b", "?", "/(/", "/a)(b/", "/a", "/\\w{900}{900}/"] {
            assert!(TopicFilter::new(&[pattern.to_owned()], &[]).is_err(), "{pattern}");
        }
    }
}
