//! A fleet whose certificates a site's own authority made: RSA and ECDSA keys, DNS names, no fleet and no role in them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use scap_agent::clock;
use scap_proto::identity::Identity;

use super::fleet::{Agent, deployed, fleet_file, host};
use super::process::Ended;
use super::scene::Scene;

/// Whether openssl is there, which makes the certificates.
fn has_openssl() -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok();
    if !there {
        assert!(
            std::env::var_os("SCAP_TESTS_NO_SKIP").is_none(),
            "no openssl"
        );
        eprintln!("skipped: there is no openssl");
    }
    there
}

#[track_caller]
fn openssl(scene: &Scene, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(scene.root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
}

/// Makes an authority, in `<name>.key` and `<name>.crt`.
fn make_authority(scene: &Scene, name: &str) {
    openssl(
        scene,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.crt -days 30 -subj /CN=puppet.{name} \
             -addext keyUsage=critical,keyCertSign,cRLSign"
        ),
    );
}

/// Makes an identity directory with a certificate by that authority, for these DNS names.
fn make_identity(scene: &Scene, directory: &str, authority: &str, key: &str, names: &[&str]) {
    let names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let extensions = format!(
        "subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n",
        names.join(",")
    );
    scene.write(&format!("{directory}/extensions"), extensions);
    let key_file = format!("{directory}/node.key");
    openssl(
        scene,
        &format!(
            "req -newkey {key} -nodes -keyout {key_file} -out {directory}/request -subj /CN={}",
            &names[0][4..]
        ),
    );
    openssl(
        scene,
        &format!(
            "x509 -req -in {directory}/request -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 30 \
             -extfile {directory}/extensions -out {directory}/node.crt"
        ),
    );
    std::fs::copy(
        scene.path(format!("{authority}.crt")),
        scene.path(format!("{directory}/ca.crt")),
    )
    .unwrap();
    for (path, mode) in [(directory, 0o700), (key_file.as_str(), 0o600)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path(path), mode).unwrap();
    }
}

const RSA: &str = "rsa:2048";
const ECDSA: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// What both sides are told of the authority.
fn says(coordinator: &str) -> String {
    format!("fleet = 'site'\ncoordinators = ['{coordinator}']\n[names]\n'db.example.org' = 'db1'\n")
}

/// A coordinator of the site's making in `st`, and two hosts, which take `coordinator` for one.
fn scene(coordinator: &str) -> Scene {
    let scene = Scene::new();
    make_authority(&scene, "site");
    std::fs::remove_dir_all(scene.path("st/coordinator")).unwrap();
    make_identity(
        &scene,
        "st/coordinator",
        "site",
        ECDSA,
        &["deploy1.example.org"],
    );
    scene.write("st/coordinator/authority.toml", says("deploy1.example.org"));
    for (name, key, dns) in [
        ("web1.example.org", RSA, "web1.example.org"),
        ("db1", ECDSA, "db.example.org"),
    ] {
        std::fs::create_dir_all(scene.path(format!("{name}/srv"))).unwrap();
        let identity = format!("{name}/identity");
        make_identity(&scene, &identity, "site", key, &[dns]);
        scene.write(&format!("{identity}/authority.toml"), says(coordinator));
        let signers = scene.path("st/allowed_signers");
        std::fs::copy(signers, scene.path(format!("{identity}/allowed_signers"))).unwrap();
    }
    scene
}

fn deploy(scene: &Scene, more: &[&str]) -> Ended {
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--json",
        "--repo",
        "repo",
    ];
    scene.scap(&[&arguments[..], more].concat())
}

fn write_fleet(scene: &Scene, agents: &[Agent]) {
    let hosts = agents
        .iter()
        .map(|it| (it.name(), it.address.as_str(), false));
    scene.write("fleet.toml", fleet_file(&hosts.collect::<Vec<_>>()));
}

#[test]
fn hosts_with_certificates_of_a_sites_own_authority_are_deployed_to_and_sign_their_reports() {
    if !has_openssl() {
        return;
    }
    let scene = scene("deploy1.example.org");
    let (repo, commit) = scene.repo();
    let agents = ["web1.example.org", "db1"].map(|name| Agent::start_enrolled(&scene, name));
    write_fleet(&scene, &agents);
    let report = deployed(&deploy(&scene, &[]).exits(0));
    for agent in &agents {
        assert_eq!(
            host(&report, agent.name())["error"],
            serde_json::Value::Null
        );
        repo.archived(&commit).assert_is(&agent.live("repo"));
    }
    assert_eq!(report["outcome"], "done", "{report:#}");
}

/// E1: in a site's certificates no role is said; who is not on the list is no coordinator, however good its certificate.
#[test]
fn e1_who_is_not_on_the_list_is_no_coordinator_however_good_its_certificate() {
    if !has_openssl() {
        return;
    }
    for (listed, uri) in [
        (
            "deploy1.example.org",
            "scap://site/coordinator/deploy1.example.org",
        ),
        (
            "deploy2.example.org",
            "scap://site/agent/deploy1.example.org",
        ),
    ] {
        let scene = scene(listed);
        let load = |path: &str| Identity::load(&scene.path(path)).unwrap();
        let coordinator = load("st/coordinator");
        let own = coordinator.own().to_uri();
        assert_eq!(own, "scap://site/coordinator/deploy1.example.org");
        for host in ["web1.example.org/identity", "db1/identity"] {
            let trust = load(host).trust().clone();
            let seen = trust
                .check(coordinator.certificate(), clock::now().0)
                .unwrap();
            assert_eq!(seen.to_uri(), uri, "{host}");
        }
    }
}

/// E1: neither another authority nor another host of the same one passes for the host that is dialled.
#[test]
fn e1_a_host_of_another_authority_or_of_another_name_is_not_let_in() {
    if !has_openssl() {
        return;
    }
    let scene = scene("deploy1.example.org");
    scene.repo();
    make_authority(&scene, "other");
    let stranger = "web1.example.org/identity";
    std::fs::remove_file(scene.path(format!("{stranger}/node.key"))).unwrap();
    make_identity(&scene, stranger, "other", RSA, &["web1.example.org"]);
    let agents = ["web1.example.org", "db1"].map(|name| Agent::start_enrolled(&scene, name));
    // The one that answers for web2 is db1.
    let hosts = [
        ("web1.example.org", agents[0].address.as_str(), false),
        ("web2.example.org", agents[1].address.as_str(), false),
    ];
    scene.write("fleet.toml", fleet_file(&hosts));
    let ended = deploy(&scene, &["--connect-timeout", "5"]);
    assert!(!ended.is_code(0), "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    for piece in [
        "no authority we trust certified",
        "the peer is agent db1 of fleet site, expected web2.example.org",
    ] {
        assert!(said.contains(piece), "no `{piece}` in {ended:#?}");
    }
}

#[test]
fn a_file_about_the_authority_that_cannot_be_meant_is_refused_by_name() {
    if !has_openssl() {
        return;
    }
    let scene = scene("deploy1.example.org");
    let path = "web1.example.org/identity/authority.toml";
    for (text, piece) in [
        ("fleet = 'site'", "missing field `coordinators`"),
        (
            "fleet = 'site'\ncoordinators = []\nroles = 1",
            "unknown field `roles`",
        ),
        (
            "fleet = 'site'\ncoordinators = ['*.example.org']",
            "`*.example.org`",
        ),
        (
            "fleet = 'site'\ncoordinators = []\n[names]\na = 'x'\nb = 'x'",
            "the name x to two certificates",
        ),
        (
            "fleet = 'site'\ncoordinators = []\n[names]\na = 'web1.example.org'",
            "its name is given to another certificate",
        ),
    ] {
        scene.write(path, text);
        let arguments = super::fleet::run_arguments("web1.example.org", "127.0.0.1:0");
        let ended = scene.scap(&arguments.each()).exits(1);
        assert!(ended.stderr.contains(piece), "no `{piece}` in {ended:#?}");
    }
}
