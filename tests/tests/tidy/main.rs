//! What no compiler checks: engines without IO, short files, no dead ones, and a README that says
//! how to start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod security;

#[test]
fn engines_import_no_io() {
    let mut seen = 0;
    for file in ENGINES
        .iter()
        .flat_map(|engine| rust_files(&root().join(engine)))
    {
        // An engine's folder may hold its driver, which is where the IO belongs: `driver.rs`, and what is in `driver`.
        if file
            .iter()
            .any(|part| part == "driver.rs" || part == "driver")
        {
            continue;
        }
        let found = io_in(&read(&file));
        assert!(found.is_empty(), "{}: {found:?}", file.display());
        seen += 1;
    }
    assert!(seen >= 2, "the engines are elsewhere");
}

#[test]
fn files_are_short() {
    for file in all_rust_files() {
        let lines = read(&file).lines().count();
        assert!(
            lines <= LINES_MAX,
            "{}: {lines} lines, more than {LINES_MAX}",
            file.display()
        );
    }
}

#[test]
fn every_file_is_part_of_a_crate() {
    let all: BTreeSet<PathBuf> = all_rust_files().into_iter().collect();
    let mut reached = BTreeSet::new();
    for file in all.iter().filter(|file| is_crate_root(file)) {
        reach(file, &mut reached);
    }
    let dead: Vec<_> = all.difference(&reached).collect();
    assert!(dead.is_empty(), "no `mod` leads to {dead:#?}");
}

#[test]
fn nothing_depends_on_the_tests_and_the_order_of_crates_holds() {
    for (crate_name, forbidden) in [
        (
            "proto",
            ["scap-agent", "scap-coordinator", "scap-tests"].as_slice(),
        ),
        ("agent", &["scap-coordinator", "scap-tests"]),
        ("coordinator", &["scap-tests"]),
    ] {
        let manifest = read(&root().join(crate_name).join("Cargo.toml"));
        let manifest: toml::Table = manifest.parse().expect("cargo has read it");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(section).and_then(toml::Value::as_table);
            for name in names.into_iter().flat_map(toml::Table::keys) {
                assert!(
                    !forbidden.contains(&name.as_str()),
                    "{crate_name} depends on {name}"
                );
            }
        }
    }
}

#[test]
fn the_readme_starts_with_the_two_commands() {
    let readme = root().join("README.md");
    // The first landing steps come without one.
    if readme.exists() {
        let text = read(&readme);
        for command in ["cargo run --release -- demo", "cargo test --workspace"] {
            assert!(text.contains(command), "README.md does not say `{command}`");
        }
    }
}

#[test]
fn io_is_seen_however_it_is_imported() {
    for source in [
        "use tokio::sync::mpsc;",
        "use std::net::SocketAddr;",
        "use std::{collections::BTreeMap, fs};",
        "use std::{\n    fmt,\n    net::{IpAddr, SocketAddr},\n};",
        "let now = Instant::now();",
        "let now = std::time::SystemTime::now();",
    ] {
        assert_eq!(io_in(source).len(), 1, "{source}");
    }
    for source in [
        "use std::time::Instant;",
        "use std::{collections::BTreeMap, fmt};",
        "// The driver's `tokio::select!` calls this.",
        "/// Never `SystemTime`.",
    ] {
        assert!(io_in(source).is_empty(), "{source}");
    }
}

#[test]
fn modules_are_found_in_every_notation() {
    let source = "mod a;\npub mod b;\npub(crate) mod c;\n#[cfg(test)]\nmod tests {\n";
    assert_eq!(modules_of(source), ["a", "b", "c"]);
    assert!(modules_of("// mod gone;\nlet x = \"mod text;\";\n").is_empty());
}

/// What an engine must not name, in code; comments may.
fn io_in(source: &str) -> Vec<&'static str> {
    let code: String = source
        .lines()
        .filter_map(|line| line.split("//").next())
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect();
    let mut found: Vec<_> = FORBIDDEN
        .into_iter()
        .filter(|word| code.contains(word))
        .collect();
    for group in code.split("usestd::{").skip(1) {
        let items = group.split(';').next().unwrap_or_default();
        for item in items.split([',', '{', '}']) {
            let module = item.split("::").next().unwrap_or_default();
            found.extend(
                FORBIDDEN
                    .iter()
                    .filter(|f| f.strip_prefix("std::") == Some(module)),
            );
        }
    }
    found
}

fn reach(file: &Path, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let stem = file.file_stem().unwrap_or_default();
    let folder = file.parent().expect("a file is in a folder");
    let owns_folder = stem == "mod" || is_crate_root(file);
    let below = if owns_folder {
        folder.to_owned()
    } else {
        folder.join(stem)
    };
    for module in modules_of(&read(file)) {
        let candidates = [
            below.join(format!("{module}.rs")),
            below.join(&module).join("mod.rs"),
        ];
        for candidate in candidates.iter().filter(|candidate| candidate.exists()) {
            reach(candidate, reached);
        }
    }
}

/// Names that a source declares as files: `mod name;`.
fn modules_of(source: &str) -> Vec<String> {
    let name = |line: &str| {
        let declaration = line.trim().strip_suffix(';')?;
        let (visibility, name) = declaration.split_once("mod ").unwrap_or(("-", ""));
        let declares =
            visibility.is_empty() || visibility == "pub " || visibility.starts_with("pub(");
        declares.then(|| name.to_owned())
    };
    source.lines().filter_map(name).collect()
}

/// Whether cargo compiles a file by itself.
fn is_crate_root(file: &Path) -> bool {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let parent = |above: usize| {
        file.ancestors()
            .nth(above)
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
    };
    match (name, parent(1)) {
        ("lib.rs" | "main.rs", Some("src")) | ("build.rs", _) => true,
        ("main.rs", _) => matches!(parent(2), Some("tests" | "benches" | "examples" | "bin")),
        (_, Some("bin" | "benches" | "examples" | "fuzz_targets")) => true,
        // Not the tests of the crate that is itself called `tests`: those are in `tests/tests`.
        (_, Some("tests")) => file
            .ancestors()
            .nth(2)
            .is_some_and(|above| above.join("Cargo.toml").exists()),
        _ => false,
    }
}

fn all_rust_files() -> Vec<PathBuf> {
    let found: Vec<_> = CRATES
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
        .collect();
    assert!(found.len() > 20, "the sources are elsewhere");
    found
}

/// Below a folder that may not exist yet, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace is around")
        .to_owned()
}

const CRATES: [&str; 4] = ["proto", "agent", "coordinator", "tests"];

/// Folders whose code decides and touches nothing; not all exist yet.
const ENGINES: [&str; 5] = [
    "agent/src/catchup",
    "agent/src/swarm",
    "agent/src/topology",
    "agent/src/relay",
    "coordinator/src/rollout",
];

const FORBIDDEN: [&str; 8] = [
    "tokio",
    "quinn",
    "std::net",
    "std::fs",
    "std::process",
    "Instant::now",
    "SystemTime",
    "thread_rng",
];

/// A file is one idea; long before this it is two.
const LINES_MAX: usize = 800;
