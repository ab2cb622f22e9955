//! The rules of the code base that no compiler knows: layers, names, lengths. Each is a function
//! from text to complaints, and has a test that shows it complaining about bad code.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;

use rules::Complaint;
use source::SourceFile;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders of the project.
fn rust_files(folders: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push(SourceFile::new(path, &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with all complaints of a rule about these files.
fn hold(rule: fn(&SourceFile) -> Vec<Complaint>, folders: &[&str]) {
    let files = rust_files(folders);
    assert!(!files.is_empty(), "no Rust files in {folders:?}");
    let complaints: Vec<_> = files.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn modules_use_lower_layers_only() {
    hold(rules::layers, &["src"]);
}

#[test]
fn every_module_has_its_layer() {
    let lib = SourceFile::new("src/lib.rs", include_str!("../src/lib.rs"));
    assert_eq!(rules::modules_of_the_library(&lib), Vec::<String>::new());
}

#[test]
fn decisions_are_made_without_io_and_clock() {
    hold(rules::no_io, &["src"]);
}

#[test]
fn files_are_not_too_long() {
    hold(rules::length, &["src", "tests", "benches"]);
}

#[test]
fn files_say_what_they_are() {
    hold(rules::begins_with_a_comment, &["src", "tests", "benches"]);
}

#[test]
fn words_are_those_of_the_glossary() {
    hold(rules::words, &["src"]);
}

#[test]
fn tests_wait_for_conditions_not_for_time() {
    hold(rules::no_sleeps_in_tests, &["src", "tests"]);
}

#[test]
fn no_test_is_ignored() {
    hold(rules::no_ignored_tests, &["src", "tests"]);
}

#[test]
fn nothing_new_lies_at_the_top() {
    let entries = std::fs::read_dir(root()).unwrap();
    let names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(rules::top_level(&names), Vec::<String>::new());
}

#[test]
fn example_configurations_are_right() {
    let complaints = rules::configurations(&root().join("config"));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
