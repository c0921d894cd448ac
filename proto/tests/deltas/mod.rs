//! Parts of deltas: golden bytes, there and back, and damaged ones.

use std::num::NonZeroUsize;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use scap_proto::{
    codec::{self, CodecError},
    content::{
        ChunkRef, DeltaError, EncodedChunk,
        delta::{MAGIC, Part, Run},
    },
    extensions::{ExtensionError, Extensions},
    id::{ChunkId, PlanId, ReleaseId, SnapshotId},
    limits::{CHUNK_BYTES_MAX, DELTA_BASE_BYTES_MAX, DELTA_MADE_BYTES_MAX, DELTA_PARTS_MAX},
    release::{
        Authority, Release, Report, SignedRelease,
        signature::{Signer, allowed_signers_line},
        signed::SignedObject,
    },
};

use super::objects::{EVEN, ODD, RELEASE, REPORT, any_damages, damage, golden, with_extensions};

/// Its frame is one of the many that zstd may make.
const PART: &str = "
    736361702d64656c74612f310a              # scap-delta/1\\n
    01                                      # of one base chunk
      88b185e7b04f561c915778de43cfe137 06d8f19c5bdbc4dc0812f582270240e0
    01                                      # one chunk is made
      4b4b6723bd9f798e440e00fb6d0333ad 06e11b0886bb4617945c92d867c4789a
      2d                                    #   of 45 bytes
    15 28b52ffd202d65000030636f6d65730a 01005ea980
                                            # a frame of 21 bytes
    00                                      # no extensions
";

const BASE: &[u8] = b"a line of text that stays\nand one that goes\n";
const MADE: &[u8] = b"a line of text that stays\nand one that comes\n";

fn run(chunks: &[&[u8]]) -> Run {
    let mut run = Run::default();
    for chunk in chunks {
        run.push(ChunkId::of(chunk), chunk);
    }
    run
}

/// Makes what a part makes of some base.
fn make(part: &[u8], base: &[u8]) -> Result<Vec<EncodedChunk>, DeltaError> {
    let part = Part::decode(part)?;
    let collected = part.collect_base(|_| Ok::<_, DeltaError>(Bytes::copy_from_slice(base)))?;
    part.make(&collected)?.collect()
}

/// The bytes of a part that no encoder of ours makes.
fn forged(base: &[ChunkId], made: &[ChunkRef], frame: &[u8]) -> Vec<u8> {
    let frame = Bytes::copy_from_slice(frame);
    let body = codec::encode(&(base, made, frame, Extensions::default()));
    [MAGIC.as_bytes(), &body].concat()
}

fn chunk_ref(plain: &[u8]) -> ChunkRef {
    ChunkRef {
        id: ChunkId::of(plain),
        plain_length: u32::try_from(plain.len()).unwrap(),
    }
}

#[test]
fn a_part_is_read_as_it_was_written_down() {
    let part = golden(PART);
    assert_eq!(Part::decode(&part).unwrap().made(), [chunk_ref(MADE)]);
    let made = make(&part, BASE).unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].plain(), MADE);
    // Only the frame may be another.
    let ours = Part::encode(&run(&[BASE]), &run(&[MADE]));
    assert_eq!(
        ours[..part.len() - FRAME_BYTES],
        part[..part.len() - FRAME_BYTES]
    );
    assert_eq!(make(&ours, BASE).unwrap(), made);
}

#[test]
fn an_unknown_extension_is_ignored_or_refused_as_its_tag_says() {
    let part = golden(PART);
    assert_eq!(make(&with_extensions(&part, EVEN), BASE).unwrap().len(), 1);
    let refused = Part::decode(&with_extensions(&part, ODD));
    assert!(matches!(
        refused,
        Err(DeltaError::Codec(CodecError::Extension(
            ExtensionError::Required(7)
        )))
    ));
}

#[test]
fn any_flipped_bit_makes_the_same_chunk_or_an_error() {
    let part = Part::encode(&run(&[BASE]), &run(&[MADE]));
    let mut refused = 0;
    for bit in 0..part.len() * 8 {
        let mut bytes = part.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match make(&bytes, BASE) {
            // What it names as its base is for who looks that up.
            Ok(made) => assert!(made.iter().all(|chunk| chunk.plain() == MADE)),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(refused > part.len() * 4, "{refused} of {}", part.len() * 8);
}

#[test]
fn another_base_than_it_was_made_from_makes_nothing() {
    let part = Part::encode(&run(&[BASE]), &run(&[MADE]));
    let other = BASE.to_ascii_uppercase();
    let refused = make(&part, &other);
    assert!(
        matches!(refused, Err(DeltaError::OtherContent { expected, .. }) if expected == ChunkId::of(MADE)),
        "{refused:?}"
    );
    assert!(make(&part, b"").is_err());
}

#[test]
fn a_part_that_lies_about_what_it_makes_is_refused_by_name() {
    let frame = zstd::bulk::compress(MADE, 3).unwrap();
    let other = chunk_ref(&MADE.to_ascii_uppercase());
    let lie = make(&forged(&[], &[other], &frame), b"");
    assert!(
        matches!(lie, Err(DeltaError::OtherContent { .. })),
        "{lie:?}"
    );
    let short = [ChunkRef {
        plain_length: other.plain_length + 1,
        ..other
    }];
    let short = make(&forged(&[], &short, &frame), b"");
    assert!(matches!(short, Err(DeltaError::Decode { .. })), "{short:?}");
    let nothing = Part::decode(&forged(&[], &[], &frame));
    assert!(matches!(nothing, Err(DeltaError::Nothing)));
    for plain_length in [0, CHUNK_BYTES_MAX + 1] {
        let made = [ChunkRef {
            plain_length,
            ..other
        }];
        let refused = Part::decode(&forged(&[], &made, &frame));
        assert!(matches!(refused, Err(DeltaError::Length(_))));
    }
    let body = Part::decode(&golden(PART)[1..]);
    assert!(matches!(
        body,
        Err(DeltaError::Codec(CodecError::Magic { .. }))
    ));
}

#[test]
fn what_a_part_may_take_is_bounded_before_it_is_taken() {
    // A frame of 64 MiB where it says 100 bytes.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let made = chunk_ref(&[0; 100]);
    let refused = make(&forged(&[], &[made], &bomb), b"");
    assert!(matches!(
        refused,
        Err(DeltaError::Decode { length: 100, .. })
    ));

    let chunk = ChunkRef {
        plain_length: CHUNK_BYTES_MAX,
        ..made
    };
    let most = DELTA_MADE_BYTES_MAX / CHUNK_BYTES_MAX as usize;
    assert!(Part::decode(&forged(&[], &vec![chunk; most], b"")).is_ok());
    let refused = Part::decode(&forged(&[], &vec![chunk; most + 1], b""));
    assert!(matches!(refused, Err(DeltaError::Limit { .. })));

    let most = DELTA_BASE_BYTES_MAX / CHUNK_BYTES_MAX as usize;
    let part = forged(&vec![made.id; most + 9], &[made], b"");
    let part = Part::decode(&part).unwrap();
    let mut asked = 0;
    let refused = part.collect_base(|_| {
        asked += 1;
        Ok::<_, DeltaError>(vec![0; CHUNK_BYTES_MAX as usize].into())
    });
    assert!(matches!(refused, Err(DeltaError::Limit { .. })));
    assert_eq!(asked, most + 1);
}

#[test]
fn large_chunks_of_which_little_changed_take_little() {
    let noise = |seed: u64| {
        let mut bytes = vec![0; 300_000];
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    };
    let base: Vec<Vec<u8>> = (0..10).map(noise).collect();
    let mut made = base.clone();
    made[2][1000] ^= 1;
    made.swap(4, 8);
    made[9].truncate(200_000);
    let refs = |all: &[Vec<u8>]| run(&all.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let part = Part::encode(&refs(&base), &refs(&made));
    assert!(part.len() < 2000, "{} bytes", part.len());
    let part = Part::decode(&part).unwrap();
    let back: Result<Vec<EncodedChunk>, _> = part.make(&base.concat()).unwrap().collect();
    let back: Vec<Vec<u8>> = back.unwrap().iter().map(|it| it.plain().to_vec()).collect();
    assert_eq!(back, made);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_is_made_again(
        base in vec(any_chunk(), 0..5),
        made in vec(any_chunk(), 1..5),
    ) {
        let refs = |all: &[Vec<u8>]| run(&all.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let part = Part::encode(&refs(&base), &refs(&made));
        let part = Part::decode(&part).unwrap();
        let mut chunks = base.iter();
        let collected = part
            .collect_base(|id| {
                let chunk = chunks.next().unwrap();
                assert_eq!(*id, ChunkId::of(chunk));
                Ok::<_, DeltaError>(Bytes::copy_from_slice(chunk))
            })
            .unwrap();
        let back: Result<Vec<EncodedChunk>, _> = part.make(&collected).unwrap().collect();
        let back: Vec<Vec<u8>> = back.unwrap().iter().map(|it| it.plain().to_vec()).collect();
        prop_assert_eq!(back, made);
    }

    #[test]
    fn damaged_bytes_make_nothing_unproved(damages in any_damages()) {
        if let Ok(made) = make(&damage(&golden(PART), &damages), BASE) {
            for chunk in made {
                prop_assert_eq!(ChunkId::of(&chunk.plain()), chunk.id());
            }
        }
    }
}

fn any_chunk() -> impl Strategy<Value = Vec<u8>> {
    // Few letters, so that chunks have something in common.
    vec(0..3_u8, 1..3000)
}

#[test]
fn a_release_names_few_parts_of_a_chunks_length() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::create(&directory.path().join("key"), "deployer").unwrap();
    let allowed = allowed_signers_line("deployer", "*", signer.public_key());
    let authority = Authority {
        signers: &allowed.parse().unwrap(),
        threshold: NonZeroUsize::MIN,
    };
    let release = Release::from_payload(&golden(RELEASE)).unwrap();
    let verify = |chunks: Vec<ChunkRef>| {
        let mut release = release.clone();
        release.deltas[0].chunks = chunks;
        let signed = SignedRelease::sign(&release, &signer).unwrap();
        let verified = signed.verify(&authority, release.created);
        verified.map(drop).map_err(|error| error.to_string())
    };
    let part = |plain_length| ChunkRef {
        plain_length,
        ..release.deltas[0].chunks[0]
    };
    let (most, longest) = (DELTA_PARTS_MAX, CHUNK_BYTES_MAX);
    assert_eq!(verify(vec![part(longest); most]), Ok(()));
    for (chunks, reason) in [
        (vec![], "0 parts of a delta, 1 to 16 are allowed"),
        (
            vec![part(1); most + 1],
            "17 parts of a delta, 1 to 16 are allowed",
        ),
        (
            vec![part(0)],
            "0 bytes in a part of a delta, 1 to 1048576 are allowed",
        ),
        (
            vec![part(longest + 1)],
            "1048577 bytes in a part of a delta, 1 to 1048576 are allowed",
        ),
    ] {
        assert_eq!(verify(chunks), Err(reason.into()));
    }
}

#[test]
fn a_delta_is_opened_by_an_id_of_its_release_and_base() {
    let release = Release::from_payload(&golden(RELEASE)).unwrap();
    let [delta] = &release.deltas[..] else {
        panic!("the golden release has one");
    };
    let id = ReleaseId::of(&golden(RELEASE));
    let bytes = [MAGIC.as_bytes(), id.as_bytes(), &[0x33; 32]].concat();
    assert_eq!(delta.id(id), ReleaseId::of(&bytes));
}

#[test]
fn a_report_tells_what_is_live_beside_all_else() {
    let report = Report::from_payload(&golden(REPORT)).unwrap();
    assert_eq!(report.live_snapshot(), None);
    let live = SnapshotId::of(b"what runs");
    let running = report.running(live);
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "01 06 20 # one extension, which may be ignored: 6, an id",
    ));
    payload.extend(live.as_bytes());
    assert_eq!(running.to_payload().as_ref(), payload);
    let asking = running.wanting_seed();
    assert_eq!(
        (asking.live_snapshot(), asking.wants_seed()),
        (Some(live), true)
    );
}

#[test]
fn a_report_tells_which_plan_is_kept() {
    let report = Report::from_payload(&golden(REPORT)).unwrap();
    assert_eq!(report.held_plan(), None);
    let plan = PlanId::of(b"who fetches from whom");
    let holding = report.holding(plan);
    let mut payload = golden(REPORT);
    payload.pop();
    payload.extend(golden(
        "01 08 20 # one extension, which may be ignored: 8, an id",
    ));
    payload.extend(plan.as_bytes());
    assert_eq!(holding.to_payload().as_ref(), payload);
    assert_eq!(holding.held_plan(), Some(plan));
}

/// Bytes of the golden part's frame, its length and the count of extensions.
const FRAME_BYTES: usize = 23;
