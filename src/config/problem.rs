//! What is wrong with a configuration file, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; 0 where it is about something that is not in the file.
    pub line: usize,
    /// The key with its tables, such as `link.topics.include`; empty for the file as a whole.
    pub place: String,
    /// The cause, and after a semicolon what to do.
    pub text: String,
}

/// A value with the place that it came from, so that a later check can still name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Line of the file, from 1.
    pub line: usize,
    /// The key with its tables.
    pub place: String,
}

impl<T> Placed<T> {
    /// A problem with this value.
    pub fn problem(&self, text: impl Into<String>) -> Problem {
        Problem { line: self.line, place: self.place.clone(), text: text.into() }
    }

    /// Another value from the same place.
    pub fn with<U>(&self, value: U) -> Placed<U> {
        Placed { value, line: self.line, place: self.place.clone() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.place, self.text)
        }
    }
}

/// Why a configuration file is refused: never empty of problems.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file says what cannot be.
    #[error("{}", Listed { path, problems })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
}

struct Listed<'a> {
    path: &'a PathBuf,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.path.display())?;
            if problem.line > 0 {
                write!(f, "{}:", problem.line)?;
            }
            write!(f, " {problem}")?;
        }
        Ok(())
    }
}
