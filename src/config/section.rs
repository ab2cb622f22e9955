//! Reads typed values out of one TOML table: environment substitution, `*_file` variants, and the
//! keys that nobody asked for, named with the nearest one that somebody did. Knows no key itself.

use std::cell::RefCell;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problem::{Placed, Problem};

/// Similarity (Jaro-Winkler) from which on an unknown key is taken for a misspelt known one.
const NEAR: f64 = 0.75;

/// Largest file that a `*_file` key may name: passwords and tokens, not data.
const VALUE_FILE_BYTES: u64 = 1024 * 1024;

/// What the values of a file may refer to.
pub struct Surroundings<'a> {
    /// The file's text, for line numbers.
    pub text: &'a str,
    /// Relative paths in the file start here.
    pub directory: &'a Path,
    /// Looks up an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// All that was wrong so far.
    pub problems: RefCell<Vec<Problem>>,
    /// What is accepted and has no effect yet.
    pub notices: RefCell<Vec<Problem>>,
}

/// One table, and which of its keys were asked for.
pub struct Section<'a> {
    surroundings: &'a Surroundings<'a>,
    table: Option<&'a DeTable<'a>>,
    place: String,
    line: usize,
    asked: RefCell<Vec<&'static str>>,
}

type Entry<'a> = Placed<&'a DeValue<'a>>;

impl<'a> Section<'a> {
    /// The whole file.
    pub fn root(surroundings: &'a Surroundings<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(surroundings, Some(table), String::new(), 0)
    }

    fn new(
        surroundings: &'a Surroundings<'a>,
        table: Option<&'a DeTable<'a>>,
        place: String,
        line: usize,
    ) -> Self {
        Self { surroundings, table, place, line, asked: RefCell::default() }
    }

    /// Whether the file has this table at all.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The table itself as a place for problems.
    pub fn here(&self) -> Placed<()> {
        Placed { value: (), line: self.line, place: self.place.clone() }
    }

    /// Calls the table by another name in problems, where its place in the file says too little.
    pub fn renamed(mut self, place: String) -> Self {
        self.place = place;
        self
    }

    /// A string, from the key itself or from the file that `key_file` names.
    pub fn string(&self, key: &'static str) -> Option<Placed<String>> {
        let inline = self.entry(key);
        let variant = format!("{key}_file");
        let Some(path) = self.find(&variant) else {
            return self.text_of(&inline?);
        };
        if inline.is_some() {
            self.report(path.problem(format!("both {key} and {variant} are set; keep one")));
            return None;
        }
        let path = self.text_of(&path)?;
        match read_value_file(&self.surroundings.directory.join(&path.value)) {
            Ok(content) => Some(path.with(content)),
            Err(cause) => {
                self.report(path.problem(format!("read {}: {cause}", path.value)));
                None
            }
        }
    }

    /// A list of strings; `None` where the key is absent or is no such list.
    pub fn strings(&self, key: &'static str) -> Option<Vec<Placed<String>>> {
        let entry = self.entry(key)?;
        let Some(array) = entry.value.as_array() else {
            self.report(wrong_type(&entry, "a list of strings such as [\"a\", \"b\"]"));
            return None;
        };
        let items = array.iter().map(|item| {
            let line = line_of(self.surroundings.text, item.span().start);
            self.text_of(&Placed { value: item.get_ref(), line, place: entry.place.clone() })
        });
        items.collect()
    }

    /// A whole number.
    pub fn integer(&self, key: &'static str) -> Option<Placed<i64>> {
        let entry = self.entry(key)?;
        let number = entry.value.as_integer().and_then(|number| {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix()).ok()
        });
        if number.is_none() {
            self.report(wrong_type(&entry, "a whole number"));
        }
        number.map(|value| entry.with(value))
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str) -> Option<Placed<bool>> {
        let entry = self.entry(key)?;
        let value = entry.value.as_bool();
        if value.is_none() {
            self.report(wrong_type(&entry, "true or false"));
        }
        value.map(|value| entry.with(value))
    }

    /// A string, or another plain value as the file spells it.
    pub fn scalar(&self, key: &'static str) -> Option<Placed<String>> {
        let entry = self.find(key);
        match entry.as_ref().map(|entry| entry.value) {
            Some(DeValue::Integer(number)) => {
                self.ask(key);
                entry.map(|entry| entry.with(number.to_string()))
            }
            Some(DeValue::Datetime(time)) => {
                self.ask(key);
                entry.map(|entry| entry.with(time.to_string()))
            }
            _ => self.string(key),
        }
    }

    /// Whatever the key holds: for keys that are known but cannot be used yet.
    pub fn presence(&self, key: &'static str) -> Option<Placed<()>> {
        self.entry(key).map(|entry| entry.with(()))
    }

    /// A table; one that knows of no value where the file has none.
    pub fn table(&self, key: &'static str) -> Section<'a> {
        let place = self.place_of(key);
        match self.entry(key) {
            None => Section::new(self.surroundings, None, place, 0),
            Some(entry) => self.as_table(&entry),
        }
    }

    /// A list of tables, `[[key]]`.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(entry) = self.entry(key) else {
            return Vec::new();
        };
        let Some(array) = entry.value.as_array() else {
            self.report(wrong_type(&entry, &format!("a list of tables, [[{key}]]")));
            return Vec::new();
        };
        let tables = array.iter().map(|item| {
            self.as_table(&Placed {
                value: item.get_ref(),
                line: line_of(self.surroundings.text, item.span().start),
                place: entry.place.clone(),
            })
        });
        tables.collect()
    }

    /// A table whose keys are names that the user chose: each with its own table.
    pub fn named_tables(&self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let outer = self.table(key);
        let Some(table) = outer.table else {
            return Vec::new();
        };
        let mut named = Vec::new();
        for name in table.keys() {
            if let Some(entry) = outer.find(name.get_ref()) {
                named.push((name.get_ref().to_string(), outer.as_table(&entry)));
            }
        }
        named.sort_by_key(|(_, section)| section.line);
        named
    }

    /// Reports the keys that nobody asked for. To be called when all known keys were read.
    pub fn refuse_others(&self) {
        let asked = self.asked.borrow();
        for (key, value) in self.table.into_iter().flatten() {
            let key_text = key.get_ref().as_ref();
            let known = asked.iter().any(|known| {
                let is_variant = key_text.strip_suffix("_file") == Some(known);
                key_text == *known || (is_variant && value.get_ref().is_str())
            });
            if known {
                continue;
            }
            self.report(Problem {
                line: line_of(self.surroundings.text, key.span().start),
                place: self.place_of(key_text),
                text: format!("unknown key{}", suggestion(key_text, &asked)),
            });
        }
    }

    /// Adds a problem.
    pub fn report(&self, problem: Problem) {
        self.surroundings.problems.borrow_mut().push(problem);
    }

    /// Notes what is accepted and has no effect yet.
    pub fn notice(&self, notice: Problem) {
        self.surroundings.notices.borrow_mut().push(notice);
    }

    fn ask(&self, key: &'static str) {
        self.asked.borrow_mut().push(key);
    }

    fn entry(&self, key: &'static str) -> Option<Entry<'a>> {
        self.ask(key);
        self.find(key)
    }

    fn find(&self, key: &str) -> Option<Entry<'a>> {
        let (found, value) = self.table?.get_key_value(key)?;
        Some(Placed {
            value: value.get_ref(),
            line: line_of(self.surroundings.text, found.span().start),
            place: self.place_of(key),
        })
    }

    fn as_table(&self, entry: &Entry<'a>) -> Section<'a> {
        let table = entry.value.as_table();
        if table.is_none() {
            self.report(wrong_type(entry, "a table"));
        }
        Section::new(self.surroundings, table, entry.place.clone(), entry.line)
    }

    fn text_of(&self, entry: &Entry<'a>) -> Option<Placed<String>> {
        let Some(raw) = entry.value.as_str() else {
            self.report(wrong_type(entry, "a string"));
            return None;
        };
        match substitute(raw, self.surroundings.environment) {
            Ok(text) => Some(entry.with(text)),
            Err(text) => {
                self.report(entry.problem(text));
                None
            }
        }
    }

    fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }
}

/// Line of a byte of the text, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

fn wrong_type(entry: &Entry<'_>, expected: &str) -> Problem {
    let found = entry.value.type_str();
    entry.problem(format!("is of type {found}; write {expected}"))
}

fn suggestion(key: &str, known: &[&'static str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(key, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, known)) if score >= NEAR => format!("; did you mean `{known}`?"),
        _ => format!("; known here: {}", known.join(", ")),
    }
}

/// Replaces each `${NAME}` by the variable's value; `$${` stands for a plain `${`.
fn substitute(raw: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(plain) = before.strip_suffix('$') {
            text.push_str(plain);
            text.push_str("${");
            rest = &from[2..];
            continue;
        }
        let Some(end) = from.find('}') else {
            return Err("`${` without `}`; write `$${` for a plain `${`".to_owned());
        };
        let name = &from[2..end];
        let Some(value) = environment(name) else {
            return Err(format!("environment variable {name} is not set; set it"));
        };
        text.push_str(before);
        text.push_str(&value);
        rest = &from[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

fn read_value_file(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > VALUE_FILE_BYTES {
        return Err(std::io::Error::other("is larger than 1 MiB"));
    }
    let content = std::fs::read_to_string(path)?;
    Ok(content.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "REGION").then(|| "eu".to_owned())
    }

    #[test]
    fn variables_are_put_in() {
        let put = |raw| substitute(raw, &environment);
        assert_eq!(put("a-${REGION}-${REGION}.b").unwrap(), "a-eu-eu.b");
        assert_eq!(put("/^eu$/").unwrap(), "/^eu$/");
        assert_eq!(put("$${REGION}").unwrap(), "${REGION}");
        assert!(put("${NONE}").unwrap_err().contains("NONE is not set"));
        assert!(put("${REGION").is_err());
    }

    #[test]
    fn the_nearest_known_key_is_named() {
        let known = ["include", "exclude", "start"];
        assert_eq!(suggestion("inclde", &known), "; did you mean `include`?");
        assert_eq!(suggestion("zzz", &known), "; known here: include, exclude, start");
    }
}
