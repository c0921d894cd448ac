//! What names content: BLAKE3 and nothing else.

use scap_proto::codec;
use scap_proto::content::{ChunkRef, Descriptor, Layout, SnapshotRef};
use scap_proto::id::{ChunkId, ParseIdError, PlanId, ReleaseId, SnapshotId};

use super::scene::Scene;

#[test]
fn a9_two_files_of_one_sha1_are_installed_both_byte_exact() {
    let scene = Scene::start(1);
    let pair = SHATTERED.map(|end| [SHATTERED_START, end].map(bytes_of).concat());
    assert_ne!(pair[0], pair[1]);
    for (bytes, name) in pair.iter().zip(["one.pdf", "other.pdf"]) {
        assert_eq!(sha1(bytes), SHATTERED_SHA1);
        std::fs::write(scene.repo.dir().join(name), bytes).unwrap();
    }
    let commit = scene.repo.commit("two that SHA-1 cannot tell apart");
    let (finished, _) = scene.deploy(&commit, &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    scene.assert_all_run(&commit);
    for (bytes, name) in pair.iter().zip(["one.pdf", "other.pdf"]) {
        let live = std::fs::read(scene.agents[0].live().join(name)).unwrap();
        assert_eq!(&live, bytes, "{name}");
    }
}

#[test]
fn a9_a_descriptor_has_no_way_to_say_another_digest() {
    // Nothing names the digest but the format, and another format is refused by name.
    let page = ChunkRef {
        id: ChunkId::of(b"page"),
        plain_length: 4,
    };
    let descriptor = Descriptor {
        chunk_list: vec![page],
        entries: vec![page],
        totals: Default::default(),
        extensions: Default::default(),
    };
    let (snapshot, bytes) = descriptor.encode().unwrap();
    assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor);
    for magic in [
        "scap-snapshot/2\n",
        "scap-snapshot/1-sha1\n",
        "scap-snapshot/1 md5\n",
    ] {
        let body = &bytes[b"scap-snapshot/1\n".len()..];
        let other = [magic.as_bytes(), body].concat();
        let refused = Descriptor::decode(&other).unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("not a scap-snapshot/1 of a version"), "{why}");
    }
    // A shorter digest, as SHA-1 and MD5 and a git id have, leaves a descriptor that is none.
    for length in [16, 20] {
        let at = bytes
            .windows(32)
            .position(|it| it == page.id.as_bytes())
            .unwrap();
        let short = [&bytes[..at + length], &bytes[at + 32..]].concat();
        assert!(Descriptor::decode(&short).is_err(), "{length}");
        assert!(codec::decode::<SnapshotRef>(&vec![7; length + 1]).is_err());
    }
    assert_eq!(
        Layout::new(snapshot).refs()[0].id,
        snapshot.id.descriptor_chunk()
    );
}

#[test]
fn a16_a_text_that_is_no_digest_is_a_typed_error_and_never_a_path() {
    let right = ChunkId::of(b"scap").to_string();
    let upper = right.to_uppercase();
    let huge = "a".repeat(10_000_000);
    let padded = format!("{right}/../../x");
    let dotted = format!("../{}", &right[3..]);
    let with_nul = format!("{}\0", &right[1..]);
    let beyond = format!("{}é", &right[2..]);
    for (text, error) in [
        ("../../etc/passwd", ParseIdError::Digest),
        ("", ParseIdError::Digest),
        (huge.as_str(), ParseIdError::Digest),
        (upper.as_str(), ParseIdError::NotHex),
        (padded.as_str(), ParseIdError::Digest),
        (dotted.as_str(), ParseIdError::NotHex),
        (with_nul.as_str(), ParseIdError::NotHex),
        (beyond.as_str(), ParseIdError::NotHex),
    ] {
        assert_eq!(text.parse::<ChunkId>(), Err(error.clone()), "{text:.70}");
        assert_eq!(text.parse::<SnapshotId>(), Err(error.clone()));
        assert_eq!(text.parse::<ReleaseId>(), Err(error.clone()));
        assert_eq!(text.parse::<PlanId>(), Err(error));
    }
    assert_eq!(right.parse::<ChunkId>().unwrap(), ChunkId::of(b"scap"));
}

#[test]
fn a16_commands_refuse_what_is_no_name_and_touch_nothing() {
    let scene = Scene::start(1);
    let agent = &scene.agents[0];
    for text in ["../../etc/passwd", "", "/etc", "a/../b"] {
        let finished = agent.ask(&["verify", text]);
        assert_eq!(finished.code, Some(2), "{text}: {finished:#?}");
    }
    agent.status().unwrap();
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// By the system's own program.
fn sha1(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new("sha1sum")
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// The blocks of the pair of M. Stevens, E. Bursztein, P. Karpman, A. Albertini and Y. Markov, "The first collision for full SHA-1"
/// (2017): the prefix that both files share, and the two near-collision blocks of each.
const SHATTERED_START: &str = concat!(
    "255044462d312e330a25e2e3cfd30a0a0a312030206f626a0a3c3c2f57696474682032203020522f4865696768742033203020522f547970652034203020522f",
    "537562747970652035203020522f46696c7465722036203020522f436f6c6f7253706163652037203020522f4c656e6774682038203020522f42697473506572",
    "436f6d706f6e656e7420383e3e0a73747265616d0affd8fffe00245348412d3120697320646561642121212121852fec092339759c39b1a1c63c4c97e1fffe01",
);
const SHATTERED: [&str; 2] = [
    concat!(
        "7346dc9166b67e118f029ab621b2560ff9ca67cca8c7f85ba84c79030c2b3de218f86db3a90901d5df45c14f26fedfb3dc38e96ac22fe7bd728f0e45bce046d2",
        "3c570feb141398bb552ef5a0a82be331fea48037b8b5d71f0e332edf93ac3500eb4ddc0decc1a864790c782c76215660dd309791d06bd0af3f98cda4bc4629b1",
    ),
    concat!(
        "7f46dc93a6b67e013b029aaa1db2560b45ca67d688c7f84b8c4c791fe02b3df614f86db1690901c56b45c1530afedfb76038e972722fe7ad728f0e4904e046c2",
        "30570fe9d41398abe12ef5bc942be33542a4802d98b5d70f2a332ec37fac3514e74ddc0f2cc1a874cd0c78305a21566461309789606bd0bf3f98cda8044629a1",
    ),
];

/// Of both.
const SHATTERED_SHA1: &str = "f92d74e3874587aaf443d1db961d4e26dde13e9c";
