//! The clone of the live tree that the next release is made of: what it saves, and what is left of it when the
//! activator is killed.

use std::{
    fs::DirEntry,
    path::{Path, PathBuf},
};

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

/// Waits until all that is live is in the spare, too.
fn wait_for_the_spare(fleet: &Fleet) {
    let live = file_count(&fleet.agents[0].live("repo"));
    wait_until("a spare", LIMIT, || {
        let is_noted = own(fleet, "spare-of").exists();
        let spare = file_count(&own(fleet, "spare"));
        if is_noted && spare == live {
            Ok(())
        } else {
            Err((is_noted, spare, live))
        }
    });
}

/// How many files and links are beneath a directory, which may go away meanwhile.
fn file_count(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let count = |entry: std::io::Result<DirEntry>| match entry {
        Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => file_count(&entry.path()),
        Ok(_) => 1,
        Err(_) => 0,
    };
    entries.map(count).sum()
}

/// Kills the activator once one of `signs` that it writes, or has written, is there, and waits for the next one. Whoever
/// does not write any more was too fast: that says nothing.
fn kill_at(fleet: &Fleet, signs: &[&str]) {
    wait_until("a tree that is written", LIMIT, || {
        if signs.iter().any(|sign| own(fleet, sign).exists()) {
            Ok(())
        } else {
            Err(signs)
        }
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
    let (mut fleet, repo) = deployed(8_000);
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
    kill_at(&fleet, &["staging/README.md", "spare-of"]);
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
    kill_at(&fleet, &["staging/README.md"]);
    deploy.end().exits(0);
    fleet.assert_all_run(&repo, &commit);
    assert_eq!(
        std::fs::read_dir(fleet.agents[0].live("repo-cache/revs"))
            .unwrap()
            .count(),
        3
    );
}
