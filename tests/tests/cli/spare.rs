//! The clone of the live tree that the next release is made of: what it saves, and what is left of it when the
//! activator is killed.

use std::path::PathBuf;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::repo::{SourceRepo, write_source_tree};

use super::fleet::Fleet;
use super::process::{LIMIT, send_signal};

/// One host that runs a commit of so many files, and the repo.
fn deployed(files: usize) -> (Fleet, SourceRepo) {
    let fleet = Fleet::start(&["web1"]);
    let (repo, _) = fleet.scene.repo();
    write_source_tree(repo.dir(), files, 11);
    repo.commit("Many files");
    fleet.deploy_repo();
    (fleet, repo)
}

fn own(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.agents[0].live("repo-cache/.scap").join(name)
}

fn wait_for_the_spare(fleet: &Fleet) {
    wait_until("a spare", LIMIT, || {
        let missing = ["spare", "spare-of"].map(|name| (name, own(fleet, name).exists()));
        if missing.iter().all(|(_, there)| *there) {
            Ok(())
        } else {
            Err(missing)
        }
    });
}

/// Kills the activator while something is written, and waits for the next one. Whoever does not write any more was
/// too fast: that says nothing.
fn kill_while_writing(fleet: &Fleet) {
    wait_until("a tree that is written", LIMIT, || {
        let first = own(fleet, "staging/README.md");
        if first.exists() { Ok(()) } else { Err(first) }
    });
    let killed = fleet.agents[0].activator().pid;
    send_signal(killed, Signal::KILL);
    wait_until("another activator", LIMIT, || {
        let found = fleet.agents[0].activators();
        match found.iter().find(|process| process.pid != killed) {
            Some(_) => Ok(()),
            None => Err(format!("{found:?}")),
        }
    });
}

#[test]
fn a_line_in_one_of_many_files_touches_one_entry_of_the_spare() {
    let (mut fleet, repo) = deployed(20_000);
    for n in 1..3 {
        wait_for_the_spare(&fleet);
        repo.write("README.md", format!("# Line {n}\n"));
        let commit = repo.commit("A line");
        fleet.deploy_repo();
        fleet.assert_all_run(&repo, &commit);
    }
    let said = fleet.agents[0].running().said();
    let prepared = said
        .lines()
        .filter(|line| line.contains("touched=1 written=1 reused=0"));
    assert_eq!(prepared.count(), 2, "{said}");
}

#[test]
fn a_deployment_is_right_wherever_the_making_or_the_use_of_a_spare_is_killed() {
    let (fleet, repo) = deployed(8_000);
    // The making of the first one has begun by now.
    kill_while_writing(&fleet);
    repo.write("README.md", "# After a kill\n");
    let commit = repo.commit("A line");
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);

    wait_for_the_spare(&fleet);
    for entry in std::fs::read_dir(repo.dir().join("src/07")).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    write_source_tree(&repo.dir().join("more"), 4_000, 12);
    let commit = repo.commit("Much is different");
    let deploy = fleet.start_deploy(&["--repo", "repo"]);
    kill_while_writing(&fleet);
    deploy.end().exits(0);
    fleet.assert_all_run(&repo, &commit);
    assert_eq!(
        std::fs::read_dir(fleet.agents[0].live("repo-cache/revs"))
            .unwrap()
            .count(),
        3
    );
}
