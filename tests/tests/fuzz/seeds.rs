//! The corpora as they were made: real encoded values, the golden bytes of the protocol's tests, the shipped examples,
//! and inputs that somebody thought of.

#[path = "../../../proto/tests/objects/mod.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "the protocol's tests need more of it"
)]
mod objects;
mod texts;

use bytes::Bytes;
use scap_proto::{
    codec,
    content::{
        Descriptor, EncodedChunk, Entry, Extent, FileContent, Node, RelPath, SnapshotWriter,
        SymlinkTarget,
        delta::{Part, Run},
    },
    extensions::Extensions,
    frame,
    id::{ChunkId, ContentHash},
    identity::{Denial, Denied, Enrolment, FleetTrust, IdentityRequest, Role},
    release::{
        Branch, Grant, HostConfig, LeafSigned, Lease, Membership, Plan, Release, Roster,
        SignedLease, SignedRoster, SignedSigners, SignersFile, TreeId, UnixMillis,
        host_config::{
            Check, Command, ConfigFile, Destination, HostGroup, HostPath, HostStage, Moment,
            OutputFormat, Service, ServiceAction, Services,
        },
        signed::SignedObject,
    },
    wire::{
        Envelope, Hello, Open,
        chunk::{ChunkRequest, PushHeader, ReplyHeader},
        config::{Attributes, ConfigAnswer, ConfigChanges, FileChange, FileStatus},
        control::{ControlMessage, Finalize, HostNews, Order},
        peer::{ChunkSet, PeerMessage},
        stable::StableQuestion,
    },
};
use scap_tests::fuzz::{
    content::BASE,
    insider::{INSIDER, Insider, NOW, release},
    joined,
};
use serde::Serialize;

use objects::{
    DEPLOYER, DIRECTIVE, EVEN, FINALIZATION, GRANT, ODD, PLAN, RELEASE, REPORT, ROSTER, golden,
    report_as_sent, signed_directive, signed_finalization, signed_grant, signed_release,
    with_extensions,
};

/// One file of a corpus.
pub struct Seed {
    /// Of which target.
    pub target: &'static str,
    /// What it is called.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Seeds::default();
    messages(&mut seeds);
    pages(&mut seeds);
    chunks(&mut seeds);
    signed(&mut seeds);
    trusts(&mut seeds);
    texts::texts(&mut seeds);
    seeds.0
}

#[derive(Default)]
struct Seeds(Vec<Seed>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) {
        let (name, bytes) = (name.to_owned(), bytes.into());
        self.0.push(Seed {
            target,
            name,
            bytes,
        });
    }

    fn message(&mut self, target: &'static str, name: &str, message: impl Serialize) {
        self.add(target, name, codec::encode(&Envelope::from(message)));
    }
}

fn messages(seeds: &mut Seeds) {
    let release = INSIDER.release.id();
    seeds.message("open", "session", Open::Session(Hello::ours()));
    seeds.message("open", "control", Open::Control(Hello::ours()));
    let request = ChunkRequest {
        handle: 1,
        index: 300,
    };
    seeds.message("open", "chunk", Open::Chunk(request));
    let leaf = Insider::by_leaf(&INSIDER.coordinator, &golden(ROSTER));
    let question = StableQuestion {
        repo: "mw/config".parse().ok(),
        environment: "production".parse().ok(),
        membership: codec::decode(&codec::encode(&leaf)).ok(),
    };
    seeds.message("open", "stable", Open::Stable(question.into()));
    let hello = codec::encode(&Envelope::from(Open::Session(Hello::ours())));
    seeds.add("open", "even-extension", with_extensions(&hello, EVEN));
    seeds.add("open", "odd-extension", with_extensions(&hello, ODD));

    let all: Vec<u32> = (5..300).collect();
    let sets = [
        ("indexes", ChunkSet::from_sorted(&[3, 300, 70_000])),
        ("bitmap", ChunkSet::from_sorted(&all)),
        ("none", ChunkSet::from_sorted(&[])),
        (
            "last",
            ChunkSet::Bitmap {
                first: 4 * 1024 * 1024 - 8,
                bits: Bytes::from_static(&[255]),
            },
        ),
        (
            "beyond",
            ChunkSet::Bitmap {
                first: u32::MAX,
                bits: Bytes::from_static(&[255; 9]),
            },
        ),
    ];
    for (name, set) in sets {
        seeds.add("availability", name, codec::encode(&set));
        let have = PeerMessage::Have {
            handle: 1,
            chunks: set.clone(),
        };
        seeds.message("peer", &format!("have-{name}"), have);
        let follow = PeerMessage::Follow {
            handle: 1,
            lanes: 6,
            held: set,
        };
        seeds.message("peer", &format!("follow-{name}"), follow);
    }
    seeds.message("peer", "open", PeerMessage::Open { handle: 1, release });
    seeds.message("peer", "close", PeerMessage::Close { handle: 1 });

    let report = report_as_sent().0;
    let lease: SignedLease = SignedLease(report.0.clone());
    let control = [
        (
            "ask",
            ControlMessage::Ask {
                repo: "mw/config".parse().expect("a plain name"),
                environment: "production".parse().expect("a plain name"),
            },
        ),
        ("order", ControlMessage::Order(order().into())),
        ("finalize", ControlMessage::Finalize(finalize().into())),
        ("report", ControlMessage::Report(report.clone().into())),
        (
            "roster",
            ControlMessage::Roster(SignedRoster(report.0.clone()).into()),
        ),
        (
            "relay",
            ControlMessage::Relay {
                tree: TreeId(7),
                branches: vec![Branch { first: 0, end: 320 }],
            },
        ),
        (
            "reports",
            ControlMessage::Reports(vec![report.clone(), report]),
        ),
        (
            "news",
            ControlMessage::News(vec![HostNews {
                host: 6,
                away: Some("no route".into()),
            }]),
        ),
        ("beat", ControlMessage::Beat),
        ("lease", ControlMessage::Lease(lease.into())),
    ];
    let mut stream = Vec::new();
    for (name, message) in control {
        let framed = frame::encode_frame(&Envelope::from(message.clone()));
        stream.extend(framed.expect("a seed is short"));
        seeds.message("control", name, message);
    }
    let opened = frame::encode_frame(&Envelope::from(Open::Control(Hello::ours())));
    let opened = opened.expect("a seed is short");
    seeds.add("frames", "control", [opened.clone(), stream].concat());
    let closed = frame::encode_frame(&Envelope::from(PeerMessage::Close { handle: 1 }));
    let closed = closed.expect("a seed is short");
    seeds.add(
        "frames",
        "peer",
        [opened.as_slice(), &closed, &closed].concat(),
    );
    seeds.add("frames", "four-gibibytes", [255; 8]);
    seeds.add("frames", "cut", &opened[..opened.len() - 1]);

    seeds.message("answers", "stable", finalize());
    let changes = ConfigChanges {
        live: Some((release, 7)),
        files: vec![FileChange {
            destination: destination(),
            status: FileStatus::Changed,
            diff: Some("-a\n+b\n".into()),
            diff_lines_left_out: 1,
            attributes: Some((attributes(0o644), attributes(0o600))),
            note: Some("as it is".into()),
        }],
        files_left_out: 2,
    };
    seeds.message("answers", "changes", ConfigAnswer::Changes(changes));
    seeds.message("answers", "refused", ConfigAnswer::Refused("no".into()));
    seeds.add("chunk_headers", "found", ReplyHeader::Found(7).encode());
    seeds.add("chunk_headers", "busy", ReplyHeader::Busy.encode());
    let push = PushHeader {
        handle: 1,
        index: 2,
        length: 300,
    };
    seeds.add("chunk_headers", "push", push.encode());
    seeds.add("chunk_headers", "request", codec::encode(&request));
}

fn attributes(mode: u32) -> Attributes {
    Attributes {
        mode,
        uid: 0,
        gid: 0,
    }
}

fn order() -> Order {
    let golden_ones = "golden bytes are read";
    Order {
        release: codec::decode(&signed_release()).expect(golden_ones),
        grant: codec::decode(&signed_grant()).expect(golden_ones),
        directive: codec::decode(&signed_directive()).expect(golden_ones),
        plan: Some(golden(PLAN).into()),
    }
}

fn finalize() -> Finalize {
    let Order { release, grant, .. } = order();
    let finalization = codec::decode(&signed_finalization()).expect("golden bytes are read");
    Finalize {
        release,
        grant,
        finalization,
    }
}

/// A descriptor and its pages.
fn pages(seeds: &mut Seeds) {
    let path = |text: &str| RelPath::new(text.as_bytes().to_vec()).expect("a plain path");
    let file = |lengths: &[u32]| {
        let extent = |length: &u32| Extent {
            chunk: ChunkId::of(&length.to_le_bytes()),
            offset: 3,
            length: *length,
        };
        FileContent {
            size: lengths.iter().map(|length| u64::from(*length)).sum(),
            hash: ContentHash::of(b"content"),
            extents: lengths.iter().map(extent).collect(),
        }
    };
    let target = SymlinkTarget::new(&b"../lib"[..]).expect("a plain target");
    let commit = "0102030405060708090a0b0c0d0e0f1011121314".parse();
    let all = [
        ("a", Node::File(file(&[10, 20]))),
        ("a b", Node::EmptyDirectory),
        ("bin/run", Node::Executable(file(&[7]))),
        ("empty", Node::File(FileContent::empty())),
        ("lib.so", Node::Symlink(target)),
        ("long", Node::File(file(&[1; 1030]))),
        ("vendor", Node::Gitlink(commit.expect("40 digits"))),
    ];
    for count in [1, 3, all.len()] {
        let mut writer = SnapshotWriter::new();
        let mut made = Vec::new();
        for (at, node) in &all[..count] {
            let entry = Entry {
                path: path(at),
                node: node.clone(),
            };
            made.extend(writer.push(entry, |_| 4096));
        }
        let finished = writer.finish().expect("a seed is short");
        made.extend(finished.pages);
        let page_of = |id: ChunkId| made.iter().find(|page| ChunkId::of(page) == id);
        let pages = finished.descriptor.entries.iter();
        let pages: Vec<&[u8]> = pages
            .filter_map(|page| page_of(page.id).map(Vec::as_slice))
            .collect();
        assert!(!pages.is_empty());
        seeds.add("entries", &format!("of-{count}"), joined(&pages));
        let (_, descriptor) = finished.descriptor.encode().expect("a seed is short");
        seeds.add("descriptor", &format!("of-{count}"), descriptor);
    }
    let (_, empty) = empty_descriptor().encode().expect("a seed is short");
    seeds.add("descriptor", "empty", empty);
    for (name, path) in [
        ("plain", &b"a/b.c"[..]),
        ("parent", b"../../etc/passwd"),
        ("absolute", b"/etc/passwd"),
        ("git", b"a/.GiT/hooks/post-checkout"),
        ("git-of-windows", b"GIT~1 . /config"),
        ("git-stream", b".git::$INDEX_ALLOCATION"),
        ("git-invisible", ".g\u{200c}it/config".as_bytes()),
        ("escapes", b"\x1b[31m\n"),
        ("no-text", b"\xff\xfe/\x80"),
    ] {
        seeds.add("names", name, path);
    }
}

fn empty_descriptor() -> Descriptor {
    Descriptor {
        chunk_list: Vec::new(),
        entries: Vec::new(),
        totals: Default::default(),
        extensions: Extensions::default(),
    }
}

fn chunks(seeds: &mut Seeds) {
    let with_length = |length: u32, bytes: &[u8]| [&length.to_le_bytes(), bytes].concat();
    for (name, plain) in [("raw", &b"short"[..]), ("zstd", &[7; 3000]), ("text", BASE)] {
        let chunk = EncodedChunk::from_plain(plain);
        let bytes = with_length(chunk.plain_length(), chunk.bytes());
        seeds.add("chunk", name, bytes);
        let longer = with_length(1024 * 1024, chunk.bytes());
        seeds.add("chunk", &format!("{name}-said-to-be-long"), longer);
    }
    seeds.add("chunk", "empty", with_length(0, &[0]));
    // A mebibyte of zeros that says it is 400 bytes.
    let bomb = EncodedChunk::from_plain(&vec![0; 1024 * 1024]);
    seeds.add("chunk", "bomb", with_length(400, bomb.bytes()));

    let mut base = Run::default();
    base.push(ChunkId::of(BASE), BASE);
    let changed = [BASE, b" and more", BASE].concat();
    for (name, base) in [("with-base", &base), ("without-base", &Run::default())] {
        let mut made = Run::default();
        made.push(ChunkId::of(&changed), &changed);
        made.push(ChunkId::of(b"other"), b"other");
        seeds.add("delta", name, Part::encode(base, &made));
    }
}

fn signed(seeds: &mut Seeds) {
    seeds.add("release", "golden", signed_release());
    let release_of = order().release;
    let signature = release_of.signatures[0].as_str();
    seeds.add("signature", "golden", signature);
    seeds.add("signature", "cut", &signature[..signature.len() / 2]);
    seeds.add("allowed_signers", "golden", DEPLOYER);
    let (key_type, key) = DEPLOYER
        .split_once("ssh-ed25519")
        .map(|(_, key)| ("ssh-ed25519", key.trim()))
        .expect("it names its key");
    let options = format!(
        "# who may\n\n\"a b\" valid-after=\"20250101\",valid-before=\"20270101Z\",namespaces=\"a*,!ab\" {key_type} {key}\n\
        c cert-authority {key_type} {key} comment\n"
    );
    seeds.add("allowed_signers", "options", options);
    seeds.add(
        "allowed_signers",
        "open-quote",
        format!("d namespaces=\"x {key_type} {key}\n"),
    );
    seeds.add("leaf", "golden", codec::encode(&report_as_sent().0));
    // Of the fleet of the process that writes the corpus, which no other has.
    let foreign = LeafSigned {
        certificate: INSIDER.agent.certificate(),
        ..report_as_sent().0.0
    };
    seeds.add("leaf", "foreign", codec::encode(&foreign));

    for (name, payload) in [
        ("release", golden(RELEASE)),
        ("grant", golden(GRANT)),
        ("directive", golden(DIRECTIVE)),
        ("finalization", golden(FINALIZATION)),
        ("report", golden(REPORT)),
        ("roster", golden(ROSTER)),
    ] {
        let even = with_extensions(&payload, EVEN);
        seeds.add("objects", name, payload);
        seeds.add("objects", &format!("{name}-extended"), even);
    }
    // These are about the release that the insider's grant is for, so that all of them is looked at.
    for (name, payload) in own_objects() {
        seeds.add("objects", &format!("own-{name}"), payload);
    }
    seeds.add("plan", "golden", golden(PLAN));
    let plan = Plan::from_payload(&golden(PLAN)).expect("golden bytes are read");
    let in_sites = plan.in_sites("east").expect("a short name");
    seeds.add("plan", "in-sites", in_sites.encode().1);
    let relays = scap_proto::release::Routes::new([vec![], vec![0]]).expect("no cycle");
    let routed = in_sites.with_routes(&relays).expect("few routes");
    seeds.add("plan", "with-routes", routed.encode().1);
    let config = host_config().encode().expect("a seed is short");
    seeds.add("host_config", "full", config);
}

/// What trust in others is changed by. The keys are of the process that writes the corpus, and gone with it.
fn trusts(seeds: &mut Seeds) {
    let fleet = &INSIDER.agent.own().fleet;
    let denied = Denied::Node {
        role: Role::Agent,
        name: "web9".parse().expect("a plain name"),
        issued_until: NOW,
    };
    let denial = |who| Denial {
        who,
        reason: "stolen".into(),
        since: NOW,
        is_enrolled_again: false,
    };
    let authority = Bytes::copy_from_slice(&INSIDER.issuer.der);
    let trust = FleetTrust {
        fleet: fleet.clone(),
        number: 2,
        issued: NOW,
        authorities: vec![authority.clone()],
        retired: vec![authority],
        denials: vec![denial(denied), denial(Denied::Key([7; 32]))],
        extensions: Extensions::default(),
    };
    seeds.add("fleet_trust", "full", trust.to_payload());
    let cut_off = FleetTrust {
        authorities: vec![Bytes::from_static(b"0\x82")],
        denials: Vec::new(),
        ..trust
    };
    seeds.add("fleet_trust", "no-authority", cut_off.to_payload());
    seeds.add("fleet_trust", "mark", [7; 16]);

    let file = SignersFile {
        number: 1,
        previous: [7; 32],
        text: DEPLOYER.into(),
        expires: UnixMillis(NOW.0 + 3_600_000),
        extensions: Extensions::default(),
    };
    let link = SignedSigners {
        payload: file.to_payload(),
        signatures: order().release.signatures,
    };
    seeds.add("signers", "one", codec::encode(&link));
    let unsigned = SignedSigners::unsigned(&file);
    seeds.add("signers", "unsigned", codec::encode(&unsigned));
    seeds.add("objects", "own-signers", file.to_payload());

    let enrolment = Enrolment {
        certificate: INSIDER.issuer.pem.clone(),
        authorities: INSIDER.issuer.pem.clone(),
        allowed_signers: Some(Bytes::from_static(DEPLOYER.as_bytes())),
        host: Some(Bytes::from_static(b"environments = [\"production\"]\n")),
        membership: Some(codec::encode(&report_as_sent().0).into()),
        extensions: Extensions::default(),
    };
    seeds.add("enrolment", "full", enrolment.encode());
    let request = IdentityRequest::create(&INSIDER.session);
    seeds.add(
        "enrolment",
        "request-after-noise",
        format!("motd\n{request}"),
    );
    seeds.add("enrolment", "request", request);
}

fn own_objects() -> Vec<(&'static str, Bytes)> {
    let about: Release = release();
    let release = INSIDER.release.id();
    let expires = UnixMillis(NOW.0 + 3_600_000);
    let node = |name: &str| name.parse().expect("a plain name");
    let mut directive =
        scap_proto::release::Directive::from_payload(&golden(DIRECTIVE)).expect("golden");
    directive.release = release;
    let directive = directive.lapsing_after(std::time::Duration::from_secs(600));
    let grant = Grant {
        release,
        session_key: [7; 32],
        epoch: 2,
        expires,
        extensions: Extensions::default(),
    };
    let lease = Lease {
        release,
        relay: node("web1"),
        host: node("db1"),
        expires,
        extensions: Extensions::default(),
    };
    let membership = Membership {
        host: node("web1"),
        environments: vec![about.environment.clone()],
        audiences: vec![about.audience.clone()],
        extensions: Extensions::default(),
    };
    let question = scap_proto::release::ConfigQuestion {
        repo: about.repo.clone(),
        environment: about.environment.clone(),
        audience: about.audience.clone(),
        asker: [7; 32],
        hosts: vec![node("db1"), node("web1")],
        expires,
        files: vec![config_file()],
        vars: "{\"port\": 1}".into(),
        templates: [(template(), Bytes::from_static(b"{{ port }}"))].into(),
        extensions: Extensions::default(),
    };
    let roster = Roster::from_payload(&golden(ROSTER)).expect("golden bytes are read");
    let finalization = scap_proto::release::Finalization::of(&INSIDER.release);
    vec![
        ("release", about.to_payload()),
        ("grant", grant.to_payload()),
        ("directive", directive.to_payload()),
        ("finalization", finalization.to_payload()),
        ("lease", lease.to_payload()),
        ("membership", membership.to_payload()),
        ("question", question.to_payload()),
        ("roster", roster.behind(&[1, 2]).to_payload()),
    ]
}

fn host_config() -> HostConfig {
    let milliseconds = 30_000.try_into().expect("not zero");
    let check = |name: &str, command, moment, stage| Check {
        name: name.into(),
        command,
        moment,
        stage,
        group: Some("canary".into()),
        timeout_millis: milliseconds,
    };
    let script = Command::Script {
        path: RelPath::new(&b"venv.sh"[..]).expect("a plain path"),
        arguments: vec!["a b".into()],
    };
    let ping = Command::Nrpe("check_ping".into());
    let service = Service {
        name: "mw".into(),
        action: ServiceAction::Reload,
        is_disabled_on_secondary: true,
    };
    let about = release();
    let config = HostConfig {
        environment: about.environment,
        config_files: vec![config_file()],
        vars: "{\"port\":8080}".into(),
        checks: vec![
            check("venv", script, Moment::After, HostStage::Fetch),
            check("ping", ping, Moment::After, HostStage::Promote),
        ],
        groups: vec![HostGroup {
            name: "canary".into(),
            hosts: vec!["web1".parse().expect("a plain name")],
        }],
        services: Services {
            units: vec![service],
            port: Some(8080),
            port_timeout_millis: milliseconds,
            skips_unknown: false,
            secondary_signal_file: HostPath::new("/etc/secondary").expect("a plain path"),
        },
        nrpe_directory: HostPath::new("/etc/nagios/nrpe.d").expect("a plain path"),
        cache_revs: 5.try_into().expect("not zero"),
        extensions: Extensions::default(),
    };
    let repeats = [("ping".to_owned(), milliseconds)].into();
    config.repeating(&repeats).expect("few repeats")
}

fn template() -> RelPath {
    RelPath::new(&b"app.j2"[..]).expect("a plain path")
}

fn config_file() -> ConfigFile {
    ConfigFile {
        destination: destination(),
        template: template(),
        remote_vars: HostPath::new("/etc/mw/vars.yaml").ok(),
        format: OutputFormat::Yaml,
        has_erb_syntax: false,
    }
}

fn destination() -> Destination {
    Destination::OnHost(HostPath::new("/etc/mw/app.yaml").expect("a plain path"))
}
