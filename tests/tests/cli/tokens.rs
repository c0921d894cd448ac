//! Hosts that enrol themselves by a token: real processes, real links, and strangers who have no token or a bad one.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;
use scap_proto::enroll::{self, Answer, Claim, Token};
use scap_proto::identity::{Enrolment, IdentityRequest, SecretKey, install::Staged};
use scap_proto::transport::enroll::{EnrollEndpoint, Party};
use scap_tests::fleet::wait_until;

use super::fleet::{Agent, deployed, fleet_file};
use super::process::{Ended, LIMIT, Running};
use super::scene::Scene;

/// Makes a token of a host, which comes alone on standard output.
fn create(scene: &Scene, host: &str, more: &[&str]) -> String {
    let arguments = [&["token", "create", host, "--state", "st"], more].concat();
    let ended = scene.scap(&arguments).exits(0);
    let text = ended.stdout.strip_suffix('\n').unwrap();
    assert!(!text.contains('\n') && !ended.stderr.contains(text));
    text.to_owned()
}

/// Gives a host a token, in a file of its owner alone.
fn give(scene: &Scene, host: &str, token: &str) {
    let path = format!("{host}.token");
    scene.write(&path, format!("{token}\n"));
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(scene.path(&path), private).unwrap();
    std::fs::create_dir_all(scene.path(host).join("srv")).unwrap();
}

/// Starts a host's `enroll`.
fn start(scene: &Scene, host: &str, way: &[&str]) -> Running {
    let (file, identity) = (format!("{host}.token"), format!("{host}/identity"));
    let arguments = [
        "agent",
        "enroll",
        "--token-file",
        &file,
        "--identity",
        &identity,
    ];
    scene.start(&[&arguments, way].concat())
}

/// Starts a host that waits for a coordinator; where.
fn start_waiting(scene: &Scene, host: &str) -> (Running, String) {
    let mut running = start(scene, host, &["--listen", "127.0.0.1:0"]);
    running.wait_until_it_says("listening for a coordinator");
    let said = running.said();
    let address = said.split("address=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    (running, address)
}

/// Has a coordinator dial the hosts of the fleet file that have a token.
fn dial(scene: &Scene, more: &[&str]) -> Running {
    let arguments = [
        "enroll",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--token",
    ];
    scene.start(&[&arguments, more].concat())
}

/// A coordinator that listens; where. It ends after a minute, or once the named hosts have come.
fn start_listening(scene: &Scene, more: &[&str]) -> (Running, String) {
    let arguments = [
        "enroll",
        "--state",
        "st",
        "--listen",
        "127.0.0.1:0",
        "--for",
        "60",
    ];
    let mut running = scene.start(&[&arguments, more].concat());
    running.wait_until_it_says("listening at ");
    let said = running.said();
    let address = said.split("listening at ").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    (running, address)
}

fn write_fleet(scene: &Scene, hosts: &[(&str, &str)]) {
    let hosts: Vec<_> = hosts.iter().map(|(name, at)| (*name, *at, false)).collect();
    scene.write("fleet.toml", fleet_file(&hosts));
}

/// The state that `token list` says of the only token of a host.
fn state_of(scene: &Scene, host: &str) -> String {
    let ended = scene
        .scap(&["token", "list", "--state", "st", "--json"])
        .exits(0);
    let view = ended.json("scap.tokens/1");
    let tokens = view["tokens"].as_array().unwrap();
    let found: Vec<_> = tokens.iter().filter(|it| it["host"] == host).collect();
    assert_eq!(found.len(), 1, "{view:#}");
    found[0]["state"].as_str().unwrap().to_owned()
}

/// Deploys to the hosts of the fleet file.
fn deploy(scene: &Scene) -> Ended {
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--json",
    ];
    scene.scap(&[&arguments[..], &["--repo", "repo"]].concat())
}

/// Makes one claim from an address of this machine, as a host would that has this token and request.
fn claim(token: &str, request: &str, at: &str, from: u8) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let token: Token = token.parse().unwrap();
    runtime.block_on(claim_from(&token, request, at, from))
}

async fn claim_from(token: &Token, request: &str, at: &str, from: u8) -> Result<Answer, String> {
    let party = Party::Newcomer {
        fleet: token.fleet().clone(),
        pin: token.pin(),
    };
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 7, from)), 0);
    let endpoint = EnrollEndpoint::listen(party, from).unwrap();
    let link = endpoint.dial(at.parse().unwrap(), token.pin()).await;
    let link = link.map_err(|error| error.to_string())?;
    let claim = Claim {
        secret: token.secret().clone(),
        request: request.to_owned(),
    };
    // What came is dropped: it is never said that the identity is on a disk.
    let answered = enroll::claim(&link, claim).await;
    let answer = answered.map(|(answer, _)| answer);
    endpoint.close(0).await;
    answer.map_err(|error| error.to_string())
}

fn given(answer: &Answer) -> Enrolment {
    let Answer::Identity(given) = answer else {
        panic!("refused");
    };
    Enrolment::decode(given).unwrap()
}

#[test]
fn a_host_with_a_token_waits_and_is_dialled_and_then_deployed_to() {
    let scene = Scene::new();
    let (repo, commit) = scene.repo();
    let token = create(&scene, "web1", &["--expires", "10m"]);
    give(&scene, "web1", &token);
    let (host, address) = start_waiting(&scene, "web1");
    write_fleet(&scene, &[("web1", &address)]);
    // What any user of the machine can read of it.
    let about = |file| std::fs::read(format!("/proc/{}/{file}", host.pid())).unwrap();
    let secret = token.rsplit(':').next().unwrap();
    for file in ["cmdline", "environ"] {
        assert!(
            !String::from_utf8_lossy(&about(file)).contains(secret),
            "{file}"
        );
    }

    let ended = dial(&scene, &[]).end().exits(0);
    ended.prints(&["enrolled web1 at 127.0.0.1", "key SHA256:"]);
    let ended = host.end().exits(0);
    assert!(!ended.stderr.contains(secret), "{ended:?}");
    ended.prints(&["enrolled: agent web1 of fleet fleet"]);
    assert_eq!(state_of(&scene, "web1"), "used");

    let agent = Agent::start_at(&scene, "web1", &address);
    deployed(&deploy(&scene).exits(0));
    repo.archived(&commit).assert_is(&agent.live("repo"));
    // Asked again, as a unit does at each start, it needs no token.
    std::fs::remove_file(scene.path("web1.token")).unwrap();
    let again = start(&scene, "web1", &[]).end().exits(0);
    again.prints(&["enrolled already: agent web1 of fleet fleet"]);
}

#[test]
fn a_host_whose_address_nobody_knows_dials_a_coordinator_that_listens_for_it() {
    let scene = Scene::new();
    let token = create(&scene, "web1", &["--environment", "staging"]);
    give(&scene, "web1", &token);
    let (coordinator, address) = start_listening(&scene, &["--token", "web1", "--json"]);
    let host = start(&scene, "web1", &["--coordinator", &address]);
    host.end().exits(0).prints(&["enrolled: agent web1"]);
    let view = coordinator.end().exits(0).json("scap.enroll/1");
    assert_eq!(view["hosts"][0]["name"], "web1");
    assert_eq!(view["hosts"][0]["outcome"], "enrolled");
    let host = std::fs::read_to_string(scene.path("web1/identity/host.toml")).unwrap();
    assert!(host.contains("staging"), "{host}");
}

#[test]
fn a_token_is_read_from_its_owners_file_or_standard_input_and_from_nowhere_else() {
    let scene = Scene::new();
    let token = create(&scene, "web1", &[]);
    give(&scene, "web1", &token);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(scene.path("web1.token"), open).unwrap();
    let ended = start(&scene, "web1", &[]).end();
    ended.fails(1, "read the token", "has mode 644", "token create");
    assert!(!scene.path("web1/identity").exists());

    let (coordinator, address) = start_listening(&scene, &["--token", "web1"]);
    let arguments = [
        "agent",
        "enroll",
        "--token-file",
        "-",
        "--identity",
        "web1/identity",
        "--coordinator",
        &address,
    ];
    let mut command = scene.command(&arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(token.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    coordinator.end().exits(0);
}

/// Who stole a host has its key, the token that it used, and perhaps one that nobody used.
#[test]
fn e6_a_revoked_host_is_back_by_a_token_made_since_and_by_none_from_before() {
    let scene = Scene::new();
    let (repo, commit) = scene.repo();
    let request = IdentityRequest::create(&SecretKey::generate());
    let [used, pending] = [(); 2].map(|()| create(&scene, "web1", &[]));
    let (mut coordinator, at) = start_listening(&scene, &[]);
    given(&claim(&used, &request, &at, 1).unwrap());
    let revoke = ["revoke", "web1", "--state", "st"];
    let ended = scene.scap(&revoke).exits(5);
    ended.says(&["token ", " of web1 is revoked too"]);
    for token in [&used, &pending] {
        assert_eq!(claim(token, &request, &at, 2), Ok(Answer::Refused));
    }
    coordinator.wait_until_it_says("the host was revoked after the token was made");

    let token = create(&scene, "web1", &[]);
    give(&scene, "web1", &token);
    let (host, address) = start_waiting(&scene, "web1");
    write_fleet(&scene, &[("web1", &address)]);
    dial(&scene, &[]).end().exits(0);
    host.end().exits(0);
    let agent = Agent::start_at(&scene, "web1", &address);
    deployed(&deploy(&scene).exits(0));
    repo.archived(&commit).assert_is(&agent.live("repo"));
    assert_eq!(claim(&used, &request, &at, 3), Ok(Answer::Refused));
    let list = scene.scap(&["revoke", "--list", "--state", "st"]).exits(0);
    list.prints(&["agent web1  since ", "; enrolled again since\n"]);
}

/// E1: the coordinator of another fleet learns nothing from a host that waits, and the host waits on.
#[test]
fn e1_a_host_that_waits_gives_its_token_to_no_coordinator_of_another_fleet() {
    let scene = Scene::new();
    scene.scap(&["init", "--state", "evil"]).exits(0);
    let token = create(&scene, "web1", &[]);
    give(&scene, "web1", &token);
    let (mut host, address) = start_waiting(&scene, "web1");
    write_fleet(&scene, &[("web1", &address)]);
    scene
        .scap(&["token", "create", "web1", "--state", "evil"])
        .exits(0);
    let evil = [
        "enroll",
        "--token",
        "--state",
        "evil",
        "--fleet",
        "fleet.toml",
    ];
    let refused = scene.scap(&[&evil[..], &["--for", "3"]].concat()).exits(1);
    refused.says(&["not enrolled web1", "[enroll-stranger]"]);
    host.wait_until_it_says("enroll-stranger");
    dial(&scene, &[]).end().exits(0);
    host.end()
        .exits(0)
        .prints(&["enrolled: agent web1 of fleet fleet"]);
}

/// E2: what a request asks for is not what its host becomes.
#[test]
fn e2_a_request_for_another_name_or_role_gets_what_the_token_is_for() {
    let scene = Scene::new();
    let token = create(&scene, "web1", &[]);
    let (coordinator, address) = start_listening(&scene, &[]);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(
        "scap://fleet/coordinator/web2".try_into().unwrap(),
    )];
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let answer = claim(&token, &request, &address, 1).unwrap();
    scene.write("evil/node.key", key.serialize_pem());
    for (path, mode) in [("evil", 0o700), ("evil/node.key", 0o600)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path(path), mode).unwrap();
    }
    let staged = Staged::new(&scene.path("evil"), &given(&answer), None).unwrap();
    assert_eq!(staged.identity().own().to_uri(), "scap://fleet/agent/web1");
    drop(coordinator);
}

/// E7: a token is good once, for its time, until it is taken back; whoever has a bad one hears the same each time, and the
/// operator reads which it was.
#[test]
fn e7_a_used_expired_revoked_or_unknown_token_is_refused_alike_and_told_apart_in_the_log() {
    let scene = Scene::new();
    let request = |key: &SecretKey| IdentityRequest::create(key);
    let (first, second) = (SecretKey::generate(), SecretKey::generate());
    let used = create(&scene, "web1", &[]);
    let revoked = create(&scene, "web2", &[]);
    scene
        .scap(&["token", "revoke", "web2", "--state", "st"])
        .exits(0)
        .prints(&["revoked token", "of web2"]);
    let expired = create(&scene, "web3", &["--expires", "1s"]);
    wait_until("the token expires", LIMIT, || {
        match state_of(&scene, "web3").as_str() {
            "expired" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let good = create(&scene, "web4", &[]);
    let other: Token = used.parse().unwrap();
    let unknown = Token::generate(other.fleet().clone(), other.pin())
        .to_text()
        .to_string();

    let (mut coordinator, address) = start_listening(&scene, &[]);
    given(&claim(&used, &request(&first), &address, 1).unwrap());
    let mut answers = Vec::new();
    for token in [&used, &revoked, &expired, &unknown] {
        answers.push(claim(token, &request(&second), &address, 2));
    }
    answers.push(claim(&good, "no request", &address, 3));
    assert!(
        answers.iter().all(|it| *it == Ok(Answer::Refused)),
        "{answers:?}"
    );
    // The same host may ask again: it never said that it has what it was given.
    given(&claim(&used, &request(&first), &address, 1).unwrap());
    coordinator.wait_until_it_says("enroll-broken");
    coordinator.signal(Signal::KILL);
    let ended = coordinator.end();
    for (code, token_of) in [
        ("token-used", "web1"),
        ("token-revoked", "web2"),
        ("token-expired", "web3"),
        ("token-unknown", "-"),
        ("bad-request", "-"),
        ("enroll-broken", "web1"),
    ] {
        let line = ended.stderr.lines().find(|line| line.contains(code));
        let line = line.unwrap_or_else(|| panic!("no {code} in {ended:#?}"));
        assert!(
            line.contains("WARN") && line.contains("address=\"127.0.7."),
            "{line}"
        );
        assert!(line.contains(&format!("token_of=\"{token_of}\"")), "{line}");
    }
    for token in [used, revoked, expired, unknown, good] {
        let secret = token.rsplit(':').next().unwrap();
        assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    }
    assert_eq!(state_of(&scene, "web4"), "pending");
}

/// E7: guesses from many addresses, as fast as they come, over real links.
#[test]
fn e7_a_flood_of_guesses_is_cut_short_costs_no_memory_and_keeps_nobody_out() {
    const ADDRESSES: u8 = 40;
    const GUESSES: u32 = 25;
    let scene = Scene::new();
    let token = create(&scene, "web1", &[]);
    give(&scene, "web1", &token);
    let (coordinator, address) = start_listening(&scene, &["--token", "web1"]);
    let before = peak_kib(coordinator.pid());
    let began = Instant::now();
    let good: Token = token.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let request = IdentityRequest::create(&SecretKey::generate());
    let guessers: Vec<_> = (1..=ADDRESSES)
        .map(|from| {
            let (request, address, good) = (request.clone(), address.clone(), good.clone());
            runtime.spawn(async move {
                let (mut heard, mut away) = (0u32, 0u32);
                for _ in 0..GUESSES {
                    let guess = Token::generate(good.fleet().clone(), good.pin());
                    match claim_from(&guess, &request, &address, from).await {
                        Ok(Answer::Refused) => heard += 1,
                        Ok(Answer::Identity(_)) => panic!("a guess was right"),
                        Err(_) => away += 1,
                    }
                }
                (heard, away)
            })
        })
        .collect();
    let (mut heard, mut away) = (0u32, 0u32);
    for guesser in guessers {
        let (of_one, sent_away) = runtime.block_on(guesser).unwrap();
        heard += of_one;
        away += sent_away;
    }
    let seconds = began.elapsed().as_secs_f64();
    let grown = peak_kib(coordinator.pid()).saturating_sub(before);
    println!(
        "{} guesses from {ADDRESSES} addresses in {seconds:.1} s: {heard} looked at, {away} sent away, {grown} KiB more at the peak",
        u32::from(ADDRESSES) * GUESSES
    );
    // What the gate lets through, whatever the machine: 10 and one each 6 s of an address, 100 and 20 a second of all.
    let of_all = 100.0 + 20.0 * seconds;
    let of_each = f64::from(ADDRESSES) * (10.0 + seconds / 6.0 + 1.0);
    assert!(
        f64::from(heard) <= of_all.min(of_each) + 1.0,
        "{heard} of {of_all}, {of_each}"
    );
    assert!(away > 0 && heard > 0);
    assert!(grown < 32 * 1024, "{grown} KiB");

    // The host whose token it is still comes in, from an address that has guessed nothing.
    let host = start(&scene, "web1", &["--coordinator", &address]);
    host.end().exits(0).prints(&["enrolled: agent web1"]);
    let ended = coordinator.end().exits(0);
    let lines = ended.stderr.matches("token-unknown").count();
    assert_eq!(
        lines,
        usize::try_from(heard).unwrap(),
        "each that was looked at is in the log"
    );
    assert!(ended.stderr.contains("enroll-limited"), "{}", ended.stderr);
}

/// T8: who took the token of one host cannot be another with it.
#[test]
fn t8_the_token_of_one_host_does_not_enrol_another() {
    let scene = Scene::new();
    let (one, two) = (create(&scene, "web1", &[]), create(&scene, "web2", &[]));
    give(&scene, "web2", &one);
    let (thief, address) = start_waiting(&scene, "web2");
    write_fleet(&scene, &[("web2", &address)]);
    let ended = dial(&scene, &["web2", "--for", "5"]).end().exits(1);
    ended.says(&[
        "not enrolled web2",
        "WARN",
        "token-other-host",
        "token_of=\"web1\"",
    ]);
    let ended = thief.end();
    ended.fails(1, "enroll this host", "[token-refused]", "token create");
    assert!(!scene.path("web2/identity/node.crt").exists());
    assert_eq!(state_of(&scene, "web1"), "pending");

    // With its own it is who it is, and web1 too.
    for (host, token) in [("web2", two), ("web1", one)] {
        give(&scene, host, &token);
        let (running, address) = start_waiting(&scene, host);
        write_fleet(&scene, &[(host, &address)]);
        dial(&scene, &[host]).end().exits(0);
        running
            .end()
            .exits(0)
            .prints(&[&format!("enrolled: agent {host}")]);
    }
}

/// A coordinator that dies before or after a token is used up: the host that asked may ask again, and nobody else.
#[test]
fn e7_a_coordinator_killed_around_the_use_of_a_token_leaves_it_to_the_key_that_used_it() {
    for (failpoint, state) in [
        ("token-checked", "pending"),
        ("token-used", "used"),
        ("token-certified", "used"),
    ] {
        let scene = Scene::new();
        let token = create(&scene, "web1", &[]);
        give(&scene, "web1", &token);
        let (host, address) = start_waiting(&scene, "web1");
        write_fleet(&scene, &[("web1", &address)]);
        let arguments = [
            "enroll",
            "--token",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
        ];
        let mut command = scene.command(&arguments);
        let died = scene
            .start_command(command.env("SCAP_FAILPOINT", failpoint))
            .end();
        assert!(died.was_killed_by(Signal::ABORT), "{failpoint}: {died:?}");
        assert_eq!(state_of(&scene, "web1"), state, "{failpoint}");
        assert!(!scene.path("web1/identity/node.crt").exists());

        if state == "used" {
            let (coordinator, listening) = start_listening(&scene, &[]);
            let stranger = IdentityRequest::create(&SecretKey::generate());
            let answer = claim(&token, &stranger, &listening, 1);
            assert_eq!(answer, Ok(Answer::Refused), "{failpoint}");
            drop(coordinator);
        }
        dial(&scene, &[]).end().exits(0).prints(&["enrolled web1"]);
        host.end().exits(0).prints(&["enrolled: agent web1"]);
    }
}

/// A host that dies before it has installed what it was given asks again with the key that it made.
#[test]
fn a_host_killed_while_it_waits_goes_on_with_its_key() {
    let scene = Scene::new();
    let token = create(&scene, "web1", &[]);
    give(&scene, "web1", &token);
    let (host, _) = start_waiting(&scene, "web1");
    let key = std::fs::read(scene.path("web1/identity/node.key")).unwrap();
    host.signal(Signal::KILL);
    host.end();
    let (host, address) = start_waiting(&scene, "web1");
    write_fleet(&scene, &[("web1", &address)]);
    dial(&scene, &[]).end().exits(0);
    host.end().exits(0);
    assert_eq!(
        std::fs::read(scene.path("web1/identity/node.key")).unwrap(),
        key
    );
}

#[test]
fn what_cannot_be_enrolled_so_is_told_with_what_to_do() {
    let scene = Scene::new();
    write_fleet(&scene, &[("web1", "127.0.0.1:1")]);
    let ended = dial(&scene, &[]).end();
    ended.fails(
        2,
        "no host of the fleet file",
        "pending token",
        "token create HOST",
    );
    let ended = dial(&scene, &["web1"]).end();
    ended.fails(2, "web1 has no pending token", "", "token create web1");
    create(&scene, "web2", &[]);
    let ended = dial(&scene, &["web2"]).end();
    ended.fails(2, "web2 is not in fleet.toml", "", "enroll --listen");
    let ended = scene.scap(&["token", "revoke", "web9", "--state", "st"]);
    ended.fails(1, "revoke a token", "no pending token web9", "token list");
    let arguments = [
        "token",
        "create",
        "web1",
        "--state",
        "st",
        "--expires",
        "31d",
    ];
    scene
        .scap(&arguments)
        .fails_as_misuse(&["'--expires <TIME>'"]);
    create(&scene, "web1", &[]);
    let ended = dial(&scene, &["web1", "--for", "1", "--json"])
        .end()
        .exits(1);
    let view = ended.json("scap.enroll/1");
    assert_eq!(view["hosts"][0]["outcome"], "failed");
    assert_eq!(view["hosts"][0]["code"], "unreachable");
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}
