//! Every bound of the protocol, with its reason.

use crate::{reason::REASON_CODE_BYTES_MAX, release::signature::SSH_SIGNATURE_BYTES_MAX};

/// Largest plain chunk, in bytes. A receiver holds a chunk in memory until its hash is checked, so
/// this times the requests in flight is what a node needs.
pub const CHUNK_BYTES_MAX: u32 = 1024 * 1024;

/// Longest encoded chunk, in bytes: a codec byte and the plain bytes. An encoder keeps the plain
/// form where compression does not gain, so nothing longer is ever read from a peer or a disk.
pub const ENCODED_CHUNK_BYTES_MAX: u32 = CHUNK_BYTES_MAX + 1;

/// Longest frame, in bytes, length prefix excluded. It caps what a stream can make us hold before its
/// sender has proved anything. A plan of 10,000 hosts of 80 bytes and the availability of a
/// snapshot of 8 million chunks each fit one frame.
pub const FRAME_BYTES_MAX: u32 = 1024 * 1024;

/// Most bytes that decoding one object may claim for what it builds: wire integers are shorter than
/// the values they become, by up to 8 times.
pub const DECODE_CLAIM_BYTES_MAX: usize = 8 * FRAME_BYTES_MAX as usize;

/// Longest descriptor, in bytes: 2 lists of chunk references (36 bytes each) for a million files and
/// more than 4 million chunks are under half of it.
pub const DESCRIPTOR_BYTES_MAX: u32 = 512 * 1024;

/// Most chunks in one snapshot, its own pages included. At the target of 128 KiB a chunk this is
/// 512 GiB; its availability is a bitmap of 512 KiB, half a frame.
pub const SNAPSHOT_CHUNKS_MAX: u32 = 4 * 1024 * 1024;
const _: () = assert!(FRAME_BYTES_MAX >= 2 * SNAPSHOT_CHUNKS_MAX / 8);

/// Longest path in a snapshot, in bytes: `PATH_MAX` of Linux, less its NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Longest component of a path, in bytes: `NAME_MAX` of Linux.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest target of a symbolic link, in bytes: `PATH_MAX` of Linux, less its NUL.
pub const SYMLINK_BYTES_MAX: usize = 4095;

/// Longest configuration of hosts in a release, in bytes: hundreds of config files and checks, and the names of a large fleet's
/// groups. It is read whole, like a frame.
pub const HOST_CONFIG_BYTES_MAX: usize = FRAME_BYTES_MAX as usize;

/// Most signatures on a release: enough for any m of n that people can gather, few enough to check.
pub const SIGNATURES_MAX: usize = 8;

/// Most bases a release lists deltas for: what a fleet runs at one time is rarely more.
pub const DELTAS_MAX: usize = 4;

/// Most parts of one delta. They are named in the release, which goes to each host with each order: 4 deltas of 16 parts
/// are 2.4 KiB. They make up to 64 MiB; of a change beyond that the chunks themselves are fetched.
pub const DELTA_PARTS_MAX: usize = 16;

/// Most plain bytes of base chunks for one part of a delta, in bytes: they are in memory while it is decoded.
pub const DELTA_BASE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most plain bytes that one part of a delta makes, in bytes. With the base, the part and a chunk that is being encoded, a
/// receiver needs 14 MiB, of one part at a time.
pub const DELTA_MADE_BYTES_MAX: usize = 4 * 1024 * 1024;
const _: () = assert!(DELTA_MADE_BYTES_MAX >= CHUNK_BYTES_MAX as usize);

/// Most extensions of an object, and most bytes in one: room to grow, nothing to hide a payload in.
pub const EXTENSIONS_MAX: usize = 16;
/// See [`EXTENSIONS_MAX`].
pub const EXTENSION_BYTES_MAX: usize = 4096;

/// Most links of the chain of signers files that a grant carries: a host may have been away while keys changed so often.
pub const SIGNERS_LINKS_MAX: usize = 8;

/// How much higher than the highest that a host accepted a sequence may be: two years of a deployment each minute. A stolen key that
/// signs the highest number there is would else leave no number for those whose key it was.
pub const SEQUENCE_JUMP_MAX: u64 = 1_000_000;

/// Most hosts in a plan: the largest fleet we design for, with room.
pub const PLAN_HOSTS_MAX: usize = 16_384;

/// Most addresses of one host: an address per family, network and interface is still fewer.
pub const HOST_ADDRESSES_MAX: usize = 8;

/// Most relays that a host may be reached through: more are no safer.
pub const HOST_RELAYS_MAX: usize = 8;

/// Most hosts in a page of a roster: so many share one signature and certificate of half a kilobyte, and a host that relays
/// for a few gets not many more.
pub const ROSTER_PAGE_HOSTS_MAX: usize = 64;

/// Most reports, or changes of hosts, in one message up a control tree. With the longest reasons they are half a
/// [`FRAME_BYTES_MAX`].
pub const BATCH_MAX: usize = 64;
const _: () = assert!(BATCH_MAX * 2 * REASON_BYTES_MAX <= FRAME_BYTES_MAX as usize);

/// Most branches that a host is given in a control tree: far more than one is fed at first, since who takes another's place
/// gets that one's beside its own.
pub const BRANCHES_MAX: usize = 1024;

/// Most different lists of relays that name one host. What is behind each it may have to cover in up to 16 branches: half of
/// [`BRANCHES_MAX`].
pub const RELAYED_LISTS_MAX: usize = 32;
const _: () = assert!(RELAYED_LISTS_MAX * 16 * 2 <= BRANCHES_MAX);

/// Most environments, and most audiences, that a host is in: a host follows one or two.
pub const MEMBERSHIP_NAMES_MAX: usize = 64;

/// Longest enrolment that a host reads, in bytes: it fits a frame, and a file of authorities and one of allowed signers, each of
/// the 256 KiB that such a file may have, fit it with room.
pub const ENROLMENT_BYTES_MAX: usize = 768 * 1024;
const _: () = assert!(ENROLMENT_BYTES_MAX < FRAME_BYTES_MAX as usize);

/// Most extensions of an enrolment that say whose certificates count: room for several hundred hosts that are revoked, and for
/// two other things.
pub const ENROLMENT_TRUST_PARTS_MAX: usize = 14;
const _: () = assert!(ENROLMENT_TRUST_PARTS_MAX + 2 <= EXTENSIONS_MAX);

/// Most stable releases in one answer: as many as the asker can then open on a link.
pub const STABLE_ANSWERS_MAX: usize = OPEN_RELEASES_PER_PEER_MAX;

/// Most targets a directive names; without names it is for all.
pub const DIRECTIVE_TARGETS_MAX: usize = PLAN_HOSTS_MAX;

/// Longest question what config files would change, in bytes: it comes in one frame, with its signatures. Templates are kilobytes, and
/// the names of the largest fleet some 200 KiB. A host holds it in memory while it renders.
pub const CONFIG_QUESTION_BYTES_MAX: usize = 960 * 1024;
const _: () = assert!(
    CONFIG_QUESTION_BYTES_MAX + (SIGNATURES_MAX + 1) * SSH_SIGNATURE_BYTES_MAX
        <= FRAME_BYTES_MAX as usize
);

/// Longest reason in a report, in bytes: a few lines of a check's output.
pub const REASON_BYTES_MAX: usize = 4096;

/// Most releases and deltas one peer may have open on one connection: what is live, previous, in progress, and
/// room for several repos, each with a delta.
pub const OPEN_RELEASES_PER_PEER_MAX: usize = 128;

/// Most authorities of a fleet at a time, and most that it has moved away from and says so: two while it moves, and room for a
/// move that is given up and begun again.
pub const AUTHORITIES_MAX: usize = 4;

/// Longest certificate of an authority, in bytes: ours are 450.
pub const AUTHORITY_BYTES_MAX: usize = 2048;

/// Most nodes that are cut off at a time. A certificate lasts a year, so it is what a fleet of 16,384 loses in one if each
/// sixteenth host is stolen; with the longest names and reasons it is half a [`FRAME_BYTES_MAX`], and each host keeps it.
pub const DENIALS_MAX: usize = 1024;

/// Longest reason of a denial, in bytes: a line.
pub const DENIAL_REASON_BYTES_MAX: usize = 200;

/// Longest fleet trust, in bytes. It comes in one frame, and is hashed before its signer is known: once for each authority.
pub const FLEET_TRUST_BYTES_MAX: usize = 640 * 1024;
const _: () = assert!(
    DENIALS_MAX * (DENIAL_REASON_BYTES_MAX + 253 + 64)
        + 2 * AUTHORITIES_MAX * AUTHORITY_BYTES_MAX
        + EXTENSIONS_MAX * EXTENSION_BYTES_MAX
        <= FLEET_TRUST_BYTES_MAX
);

/// Most fleet trusts that a node keeps to show how the latest follows: the first of each set of authorities, of which a fleet
/// has one in ten years, or two when it moves.
pub const TRUST_CHAIN_MAX: usize = 8;

/// Most peers that a report names as shunned: with the longest names and codes they are two thirds of an extension, and where
/// there are more it is not about single peers.
pub const SHUNNED_PEERS_MAX: usize = 8;
const _: () =
    assert!(SHUNNED_PEERS_MAX * (253 + 1 + REASON_CODE_BYTES_MAX + 1) < EXTENSION_BYTES_MAX);
