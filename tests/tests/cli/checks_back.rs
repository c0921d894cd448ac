//! Which checks are run on the way back and around the finalization, of which release, and what stops at one that fails.

use std::fmt::Write as _;
use std::fs;

use scap_tests::repo::SourceRepo;

use super::fleet::Fleet;

/// Around each stage that has some to run here, in the order of `checks.yaml`.
const CHECKS: [&str; 10] = [
    "before-fetch",
    "after-fetch",
    "before-promote",
    "after-promote",
    "before-handle_service",
    "after-handle_service",
    "before-finalize",
    "after-finalize",
    "before-rollback",
    "after-rollback",
];

/// On the way there, of a release that gets through.
const THERE: &[&str] = CHECKS.split_at(8).0;

/// Each notes its name and release, and fails while it is shut.
fn write_folder(fleet: &Fleet, repo: &SourceRepo) {
    let root = fleet.scene.root().canonicalize().unwrap();
    let root = root.display();
    repo.write("scap/scap.cfg", "[global]\n");
    let mut checks = "checks:\n".to_owned();
    for name in CHECKS {
        let (moment, stage) = name.split_once('-').unwrap();
        let note =
            format!("echo {name} $(cat \"$SCAP_REV_PATH/VERSION\" 2> /dev/null) >> {root}/log");
        let _ = writeln!(
            checks,
            "  {name}: {{command: '{note}; test ! -e {root}/shut-{name}', shell: yes, {moment}: {stage}}}"
        );
    }
    repo.write("scap/checks.yaml", checks);
}

/// What was run since this was last asked, as `name version`.
fn taken(fleet: &Fleet) -> Vec<String> {
    let path = fleet.scene.path("log");
    let log = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, "").unwrap();
    log.lines().map(|line| line.trim().to_owned()).collect()
}

fn of(version: &str, names: &[&str]) -> Vec<String> {
    // Its directory is made by fetching.
    let run = |name: &&str| match *name {
        "before-fetch" => (*name).to_owned(),
        name => format!("{name} {version}"),
    };
    names.iter().map(run).collect()
}

fn shut(fleet: &Fleet, names: &[&str]) {
    for name in CHECKS {
        let _ = fs::remove_file(fleet.scene.path(format!("shut-{name}")));
    }
    for name in names {
        fleet.scene.write(&format!("shut-{name}"), "");
    }
}

#[test]
fn going_back_runs_the_checks_of_the_release_that_is_live_again_and_none_of_them_stops_it() {
    let fleet = Fleet::start(&["web1"]);
    let repo = SourceRepo::create(&fleet.scene.path("repo"));
    write_folder(&fleet, &repo);
    let release = |version: &str| {
        repo.write("VERSION", format!("{version}\n"));
        repo.commit(version)
    };
    let first = release("one");
    fleet.deploy(&["--repo", "repo"]).exits(0);
    assert_eq!(taken(&fleet), of("one", THERE));

    // Where one before the switch fails, one before it may have taken the host out of service. That puts it back, and nothing is switched.
    shut(&fleet, &["before-promote"]);
    release("not to be");
    fleet.deploy(&["--repo", "repo"]).exits(4);
    let there = of("not to be", &CHECKS[..3]);
    assert_eq!(
        taken(&fleet),
        [there, of("one", &["after-promote"])].concat()
    );
    fleet.assert_all_run(&repo, &first);

    // What took the host out of service before the promote is undone by what puts it back after one.
    shut(&fleet, &["after-handle_service"]);
    release("two");
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("rolling back");
    deploy
        .end()
        .exits(1)
        .says(&["after handle_service: check `after-handle_service`"]);
    let back = [
        "before-rollback",
        "after-promote",
        "before-handle_service",
        "after-handle_service",
        "after-rollback",
    ];
    let both = [of("two", &CHECKS[..6]), of("one", &back)].concat();
    assert_eq!(taken(&fleet), both);
    fleet.assert_all_run(&repo, &first);

    // All that can fail on the way back does.
    shut(
        &fleet,
        &[
            "after-promote",
            "before-rollback",
            "before-handle_service",
            "after-rollback",
        ],
    );
    release("three");
    fleet.deploy(&["--repo", "repo"]).exits(1);
    let both = [of("three", &CHECKS[..4]), of("one", &back)].concat();
    assert_eq!(taken(&fleet), both);
    fleet.assert_all_run(&repo, &first);

    // What fails around the finalization changes nothing about it.
    shut(&fleet, &["before-finalize", "after-finalize"]);
    let last = release("four");
    fleet.deploy(&["--repo", "repo"]).exits(0);
    assert_eq!(taken(&fleet), of("four", THERE));
    fleet.assert_all_run(&repo, &last);
}
