//! SECURITY.md against the tests: its table of cases names those that there are, and what it
//! promises has a test.
//!
//! A test of a case has the case's id at the start of its name: `a5_a_zstd_bomb_is_refused`. The
//! first columns of the table are written by hand, the last is made from the sources:
//! `UPDATE=1 cargo test -p scap-tests --test tidy security` writes it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{all_rust_files, read, root};

#[test]
fn the_table_of_cases_names_the_tests_that_there_are() {
    let path = root().join("SECURITY.md");
    let text = read(&path);
    let made = with_tests(&text, &tests_by_case());
    if made != text && std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).expect("SECURITY.md can be written");
    }
    let differs = text.lines().zip(made.lines()).find(|(is, made)| is != made);
    if let Some((is, made)) = differs {
        panic!("SECURITY.md says\n{is}\nand the tests say\n{made}\nUPDATE=1 writes it");
    }
}

#[test]
fn every_case_of_the_table_has_a_test_or_says_why_not() {
    let text = read(&root().join("SECURITY.md"));
    let tests = tests_by_case();
    let mut cases = 0;
    for row in text.lines().filter_map(Row::of) {
        cases += 1;
        assert!(
            tests.contains_key(&row.case) || row.tests.starts_with(NOT_RUN),
            "{} has no test, and does not say why: `{NOT_RUN}` and the reason",
            row.case
        );
        assert!(
            !tests.contains_key(&row.case) || !row.tests.starts_with(NOT_RUN),
            "{} has a test",
            row.case
        );
    }
    assert!(cases > 40, "the table is elsewhere");
    let rows: Vec<_> = text
        .lines()
        .filter_map(Row::of)
        .map(|row| row.case)
        .collect();
    for (case, tests) in &tests {
        assert!(rows.contains(case), "{case} has no row, and {tests:?}");
    }
}

#[test]
fn what_is_promised_names_tests_that_there_are() {
    let text = read(&root().join("SECURITY.md"));
    let promises = text
        .split_once("## Promises")
        .and_then(|(_, rest)| rest.split_once("\n## "))
        .expect("there is a chapter of promises")
        .0;
    let all: Vec<String> = all_rust_files()
        .iter()
        .flat_map(|file| tests_in(&read(file)))
        .collect();
    let mut named = 0;
    for promise in promises.split("\n- ").skip(1) {
        let tests: Vec<_> = promise
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.matches('_').count() > 2)
            .collect();
        assert!(!tests.is_empty(), "a promise without a test: {promise}");
        for test in tests {
            named += 1;
            assert!(
                all.iter().any(|name| name == test),
                "no test is called {test}"
            );
        }
    }
    assert!(named > 5, "the promises are elsewhere");
}

#[test]
fn a_case_is_known_by_the_name_of_its_test() {
    assert_eq!(case_of("a5_a_zstd_bomb_is_refused").as_deref(), Some("A5"));
    assert_eq!(case_of("e10_nothing_secret").as_deref(), Some("E10"));
    for name in [
        "a_host",
        "f1_is_of_another_chapter",
        "a5",
        "ab1_x",
        "a1x_y",
        "e_10",
    ] {
        assert_eq!(case_of(name), None, "{name}");
    }
    let source = "#[test]\nfn a1_x() {}\n#[tokio::test]\nasync fn b2_y() {}\nfn c3_helper() {}\n\
                  #[test]\n#[cfg(unix)]\nfn d4_z() {}\nevil! { fn_e5: 1 }\n";
    assert_eq!(tests_in(source), ["a1_x", "b2_y", "d4_z"]);
}

/// A row of the table: `| A5 | what is done | what holds | tests |`.
struct Row<'a> {
    case: String,
    /// All before the last cell.
    written: &'a str,
    tests: &'a str,
}

impl<'a> Row<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let inside = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let (written, tests) = inside.rsplit_once(" | ")?;
        let case = written.split(" | ").next()?;
        let is_id = case_of(&format!("{}_", case.to_lowercase())).is_some();
        is_id.then(|| Self {
            case: case.to_owned(),
            written,
            tests,
        })
    }
}

/// The text with the last column as the tests say.
fn with_tests(text: &str, tests: &BTreeMap<String, Vec<Found>>) -> String {
    let line = |line: &str| match Row::of(line) {
        Some(row) => match tests.get(&row.case) {
            Some(found) => format!("| {} | {} |\n", row.written, cell(found)),
            None => format!("{line}\n"),
        },
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn cell(found: &[Found]) -> String {
    let mut by_place: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for test in found {
        let names = by_place.entry(test.place).or_default();
        names.push(format!("`{}`", test.name));
    }
    let places: Vec<_> = by_place
        .into_iter()
        .map(|(place, names)| format!("{place}: {}", names.join(", ")))
        .collect();
    places.join("; ")
}

#[derive(Debug)]
struct Found {
    name: String,
    place: &'static str,
}

fn tests_by_case() -> BTreeMap<String, Vec<Found>> {
    let mut found: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for file in all_rust_files() {
        if file.ends_with("tests/tests/tidy/security.rs") {
            continue;
        }
        for name in tests_in(&read(&file)) {
            if let Some(case) = case_of(&name) {
                let place = place_of(&file);
                found.entry(case).or_default().push(Found { name, place });
            }
        }
    }
    for tests in found.values_mut() {
        tests.sort_by(|a, b| a.name.cmp(&b.name));
    }
    found
}

/// What a test in a file has around it.
fn place_of(file: &Path) -> &'static str {
    let below = file.strip_prefix(root()).expect("it was found there");
    let below = below.to_str().expect("sources have plain names");
    match below
        .strip_prefix("tests/tests/")
        .map(|rest| rest.split('/').next())
    {
        Some(Some("fleet")) => "network",
        Some(Some("cli")) => "processes",
        Some(Some("peers")) => "evil peer",
        Some(Some("fuzz")) => "fuzz",
        Some(Some("walkthrough.rs")) => "processes",
        _ => "unit",
    }
}

/// Names of functions with a `test` attribute right above.
fn tests_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            continue;
        }
        if let Some(rest) = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ")
            && is_test
        {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            found.push(name.to_owned());
        }
        // A comment may stand between an attribute and its function.
        is_test &= line.starts_with("//");
    }
    found
}

/// `a5_…` is about case A5. Chapters A to E are those of attackers.
fn case_of(test: &str) -> Option<String> {
    let (id, _) = test.split_once('_')?;
    let chapter = id.chars().next().filter(|c| ('a'..='e').contains(c))?;
    let number = &id[1..];
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| format!("{}{number}", chapter.to_ascii_uppercase()))
}

const NOT_RUN: &str = "not run: ";
