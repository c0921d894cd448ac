//! What the examples and the README say, done.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scap_agent::config::PartialConfig;
use scap_coordinator::fleet::Inventory;

#[test]
fn the_walk_through_of_three_hosts_runs_to_its_end_and_leaves_nothing() {
    let program = Path::new(env!("CARGO_BIN_EXE_scap-under-test"));
    let name = program.file_name().unwrap().to_str().unwrap();
    // The script takes words separated by spaces, which the path of a checkout may hold.
    let mut path = vec![program.parent().unwrap().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let scratch = tempfile::tempdir().unwrap();

    let output = Command::new("bash")
        .arg(examples().join("three-hosts/walk-through.sh"))
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("TMPDIR", scratch.path())
        .env("SCAP_COORDINATOR", name)
        .env("SCAP_AGENT", format!("{name} agent"))
        .env_remove("SCAP_PORTS")
        .env_remove("SCAP_KEEP")
        .output()
        .unwrap();

    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("All three hosts have version 3"),
        "{}",
        text(&output)
    );
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_configuration_file_of_the_examples_is_read_by_the_program_it_is_for() {
    let mut seen = Vec::new();
    for file in files(&examples()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        match name.as_str() {
            "agent.toml" => {
                let config = PartialConfig::read(&file).unwrap();
                // It says that it shows the defaults.
                assert_eq!(config.complete(), PartialConfig::default().complete());
            }
            "fleet.toml" => {
                let (canary, rest) = Inventory::read(&file).unwrap().waves();
                assert!(!canary.is_empty() && !rest.is_empty());
            }
            // In a scap folder that has what it names: the tests of the command line have it read there.
            "scap.toml" => {}
            _ if name.ends_with(".toml") => panic!("nobody reads {}", file.display()),
            _ => continue,
        }
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, ["agent.toml", "fleet.toml", "scap.toml"]);
}

#[test]
fn the_units_start_commands_that_the_agent_has() {
    let mut commands = 0;
    for unit in files(&examples().join("systemd")) {
        let text = std::fs::read_to_string(&unit).unwrap();
        let starts = text
            .lines()
            .filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/scap-agent "));
        for arguments in starts {
            // The help is shown only where all arguments before it are known.
            let output = Command::new(env!("CARGO_BIN_EXE_scap-under-test"))
                .arg("agent")
                .args(arguments.split_whitespace())
                .arg("--help")
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                unit.display(),
                self::text(&output)
            );
            commands += 1;
        }
    }
    assert_eq!(commands, 4);
}

#[test]
fn the_daemon_and_the_activator_have_users_of_their_own_and_the_daemon_may_confine_itself() {
    let said = |unit: &str, key: &str| -> Vec<String> {
        let text = std::fs::read_to_string(examples().join("systemd").join(unit)).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect()
    };
    let (daemon, activator) = ("scap-agent.service", "scap-activator.service");
    let apart = format!("{daemon}.d/external-activator.conf");
    assert_eq!(said(daemon, "User="), ["scap"]);
    assert_eq!(said(activator, "User="), ["scap-activator"]);
    // The one reads what the other's group may.
    assert_eq!(
        said(activator, "SupplementaryGroups="),
        said(daemon, "Group=")
    );
    assert_eq!(said(&apart, "StateDirectoryMode="), ["0750"]);
    assert_eq!(said(&apart, "UMask="), ["0027"]);
    let calls = said(daemon, "SystemCallFilter=").join(" ");
    for call in ["create_ruleset", "add_rule", "restrict_self"] {
        assert!(calls.contains(&format!("landlock_{call}")), "{calls}");
    }
    for unit in [daemon, activator, "scap-agent-enroll.service"] {
        assert_eq!(said(unit, "NoNewPrivileges="), ["yes"], "{unit}");
        assert_eq!(said(unit, "CapabilityBoundingSet="), [""], "{unit}");
    }
}

#[test]
fn the_readme_gives_the_two_commands_and_links_only_to_what_is_there() {
    let readme = root().join("README.md");
    let text = std::fs::read_to_string(&readme).unwrap();
    for command in ["cargo run --release -- demo", "cargo test --workspace"] {
        assert!(
            text.lines().any(|line| line.trim() == command),
            "README.md does not give `{command}` on a line of its own"
        );
    }
    let pages = files(&root().join("docs"));
    for page in pages.iter().chain([&readme]) {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&text) {
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn links_are_found_without_their_anchors() {
    let found = "[a](b.md) and [c](../d.md#e), not [f](https://example.org) nor [g](#h)";
    assert_eq!(links(found).collect::<Vec<_>>(), ["b.md", "../d.md"]);
}

/// The relative targets of Markdown links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        (!target.is_empty() && !target.contains("://")).then_some(target)
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn examples() -> PathBuf {
    root().join("deploy-examples")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}
