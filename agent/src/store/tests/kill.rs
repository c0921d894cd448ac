//! A process that stores chunks, killed at any instant.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

const DIRECTORY: &str = "SCAP_TEST_STORE";
const FIRST: &str = "SCAP_TEST_FIRST";
const ROUNDS: usize = 20;

/// The test is its own child: with a directory in its environment it puts chunks until it is killed.
#[test]
fn a_killed_process_loses_no_chunk_and_offers_no_bad_one() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        put_until_killed(Path::new(&directory), first);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut random = Pcg64::seed_from_u64(9);
    let mut told = 0;
    for round in 0..ROUNDS {
        told = run_and_kill(directory.path(), told, random.random_range(1..60));

        let (store, recovery) = open(directory.path());
        assert_eq!(recovery.missing_chunks, 0, "round {round}: {recovery:?}");
        assert_eq!(recovery.removed_files, 0, "round {round}: {recovery:?}");
        // One, because the child has one thread.
        assert!(recovery.temporary_files <= 1, "round {round}: {recovery:?}");
        for n in 0..told {
            assert!(
                store.contains(&chunk(2 * n).id()),
                "round {round}: chunk {n} was told of"
            );
        }
        for id in files(directory.path()) {
            assert!(
                store.plain(&id).unwrap().found().is_some(),
                "round {round}: bad {id}"
            );
        }
        // Every other round the next child finds what was not synced.
        if round % 2 == 0 {
            store.sync().unwrap();
        }
    }
    assert!(told > 100, "only {told} chunks in all rounds");
}

/// Lets a child put chunks from `first` on, kills it when it has told of `count` more, and returns the
/// first one that it did not tell of.
fn run_and_kill(directory: &Path, first: u32, count: u32) -> u32 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("store::tests::kill::a_killed_process_loses_no_chunk_and_offers_no_bad_one")
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = first;
    let mut is_killed = false;
    // To the end: it goes on until the signal arrives, and what it tells of until then counts.
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        // The line of the test harness has no number, and one that the kill cut short no end.
        if let Some(n) = line
            .strip_prefix("put ")
            .and_then(|rest| rest.strip_suffix('.'))
        {
            told = n.parse::<u32>().unwrap() + 1;
        }
        if !is_killed && told >= first + count {
            child.kill().unwrap();
            is_killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(is_killed, "the child ended by itself: {status}");
    told
}

/// Even chunks are kept and told of, odd ones are for the collector; now and then it syncs.
fn put_until_killed(directory: &Path, first: u32) -> ! {
    let (store, _) = open(directory);
    let mut out = std::io::stdout();
    for n in first.. {
        store.put(&chunk(2 * n + 1)).unwrap();
        store.put(&chunk(2 * n)).unwrap();
        out.write_all(format!("\nput {n}.\n").as_bytes()).unwrap();
        out.flush().unwrap();
        if n % 8 == 3 {
            store.sync().unwrap();
        }
        if n % 16 == 15 {
            let collection = store.begin_collection();
            (0..=n).for_each(|n| collection.keep(&chunk(2 * n).id()));
            collection.sweep().unwrap();
        }
    }
    unreachable!("it is killed before it has put 4 billion chunks")
}
