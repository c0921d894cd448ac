//! What says to be huge is refused before it is read, and costs no memory.

use scap_proto::wire::{Hello, Open};

use super::asker::Asker;
use super::scene::Scene;

#[test]
fn b7_what_claims_a_gigabyte_or_a_hundred_million_entries_is_refused_and_takes_no_memory() {
    let scene = Scene::start(1);
    let commit = scene.commit_payload(PAYLOAD_BYTES, 1);
    scene.deploy(&commit, &[]);
    let agent = &scene.agents[0];
    let before = agent.peak_rss_bytes();

    let framed = |body: Vec<u8>| {
        let length = u32::try_from(body.len()).unwrap();
        [length.to_le_bytes().to_vec(), body].concat()
    };
    // A length of a gigabyte, and as much of it as is taken.
    let gigabyte = [vec![0, 0, 0, 0x40], vec![0x5a; 8 * 1024 * 1024]].concat();
    // A list of a hundred million, in a frame as long as one may be: reports (6), changes of hosts (7), branches (5).
    let entries = |variant: u8, head: &[u8]| {
        let count = [&[252][..], &100_000_000_u32.to_le_bytes()].concat();
        let mut body = [&[variant][..], head, &count].concat();
        body.resize(1024 * 1024, 1);
        framed(body)
    };
    let control = || Some(Open::Control(Hello::ours()));
    let session = || Some(Open::Session(Hello::ours()));
    for round in 0..4 {
        // No link is taken from one whose third frame is too long.
        let name = format!("evil{round}");
        scene.enrol(&name);
        let identity = scene.trust(&name).identity;
        for (greeting, bytes) in [
            (None, gigabyte.clone()),
            (control(), gigabyte.clone()),
            (session(), gigabyte.clone()),
            (control(), entries(6, &[])),
            (control(), entries(7, &[])),
            (control(), entries(5, &[1])),
            // What may be had of a session: a set of chunks by their numbers.
            (session(), entries(2, &[0, 1])),
            // The first frame, with a text as long.
            (None, entries(0, &[])),
        ] {
            let evil = Asker::dial(identity.clone(), agent);
            evil.sends(greeting, &bytes);
            assert!(agent.status().is_ok(), "round {round}");
        }
    }
    let grown = agent.peak_rss_bytes().saturating_sub(before);
    println!(
        "32 oversized messages: {} KiB more at the peak than before",
        grown / 1024
    );
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    let again = scene.commit_payload(PAYLOAD_BYTES, 2);
    let (finished, _) = scene.deploy(&again, &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    scene.assert_all_run(&again);
}

/// Some dozen chunks.
const PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// What a frame, and what decoding it may claim, take at a time, twice; a gigabyte is sixty times that.
const GROWTH_BYTES_MAX: u64 = 18 * 1024 * 1024;
