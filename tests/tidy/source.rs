//! A Rust file as the rules see it: with and without comments, strings and tests. No parser, only
//! as much of a lexer as keeps a word in a comment from being taken for code.

/// A file and the ways to look at it. All texts have the same lines.
pub struct SourceFile {
    /// Path within the project, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments, strings and characters blanked.
    pub code: String,
    /// First line (from 0) of the unit tests at its end; the number of lines where there are none.
    pub tests_begin: usize,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let lines: Vec<_> = text.lines().collect();
        let tests_begin = if is_test_path(path) {
            0
        } else {
            // `mod tests;` in a file of its own is one line; only what follows counts as tests.
            lines
                .windows(2)
                .position(|pair| {
                    pair[0].trim_end() == "#[cfg(test)]" && pair[1].trim_end().ends_with('{')
                })
                .unwrap_or(lines.len())
        };
        Self { path: path.to_owned(), text: text.to_owned(), code, tests_begin }
    }

    /// Lines of code with their numbers (from 1), tests left out.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code).take(self.tests_begin)
    }

    /// Lines of the tests' code with their numbers (from 1).
    pub fn test_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code).skip(self.tests_begin)
    }

    /// All lines of code with their numbers (from 1).
    pub fn all_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code)
    }

    /// The top-level module that the file belongs to: `seat` for `src/seat/leader/mod.rs`.
    pub fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split('/').next()?.trim_end_matches(".rs"))
    }

    /// A complaint about a line.
    pub fn complain(&self, line: usize, text: impl std::fmt::Display) -> String {
        format!("{}:{line}: {text}", self.path)
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

fn is_test_path(path: &str) -> bool {
    let is_unit = path.ends_with("/tests.rs") || path.contains("/tests/");
    path.starts_with("tests/") || path.ends_with("_tests.rs") || is_unit
}

/// Replaces comments, strings and characters by spaces; keeps the lines.
fn blank(text: &str) -> String {
    let mut blanked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest, blanked.chars().next_back());
        if length == 0 {
            blanked.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (skipped, after) = rest.split_at(length);
        blanked.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    blanked
}

/// How many bytes from here on are no code.
fn skipped(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if !in_word && (rest.starts_with("r\"") || rest.starts_with("r#")) {
        return raw_string(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    0
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
}

/// A character, but no lifetime: those have no second quote after one character.
fn character(rest: &str) -> usize {
    let mut characters = rest.chars().skip(1);
    match (characters.next(), characters.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = \"x // \\\" y\"; // tokio\nlet b = r#\"\"tokio\"\"#; /* tokio */ let c = '\"';\n\
                fn f<'a>(x: &'a str) { '\\'' }";
    let code = blank(text);
    assert!(!code.contains("tokio"), "{code}");
    assert_eq!(code.lines().count(), 3);
    assert!(code.contains("let c ="), "{code}");
    assert!(code.contains("fn f<'a>(x: &'a str) {"), "{code}");
}

#[test]
fn unit_tests_are_told_from_code() {
    let file = SourceFile::new("src/a/b.rs", "//! B\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n");
    assert_eq!(file.code_lines().count(), 2);
    assert_eq!(file.test_lines().count(), 3);
    assert_eq!(file.module(), Some("a"));
    assert_eq!(SourceFile::new("src/a/tests.rs", "//! T\n").code_lines().count(), 0);
    assert_eq!(SourceFile::new("src/daemon.rs", "").module(), Some("daemon"));
}
