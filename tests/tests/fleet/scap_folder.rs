//! A scap folder, written as scap3's documentation describes it, deployed to hosts that render, check and restart.
//!
//! Each host has a mount namespace in which its own folder is at [`ETC`], so that one path means another file on each. Its service is a
//! process that a supervisor starts again when the restart command says so, that writes down what it runs with, and that then answers
//! on [`PORT`] of its host.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scap_tests::fleet::{Fleet, Host, Process};
use scap_tests::repo::SourceRepo;
use scap_tests::tree::Tree;
use scap_tests::under_test;

use crate::scene::Scene;

/// What `git_repo` says.
const REPO: &str = "mobileapps/deploy";

/// Where each host's own folder is, to all that runs on it.
const ETC: &str = "/mnt";

/// What `service_port` says.
const PORT: u16 = 8888;

/// What answers there: each who connects is told, and let go.
const ANSWER: &str = "use IO::Socket::INET; my $here = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => shift, Listen => 5, ReuseAddr => 1) or die; \
    while (my $peer = $here->accept) { close $peer }";

const COMMAND_MAX: Duration = Duration::from_secs(20);

/// A host as its users see it: files, config, service.
#[derive(Debug, PartialEq)]
struct Seen {
    rev: PathBuf,
    config_leads_to: PathBuf,
    config: String,
    service: String,
}

#[test]
fn a_scap3_folder_is_deployed_unchanged_and_a_canary_that_fails_its_check_brings_everything_back() {
    let Some(scene) = start() else {
        return;
    };
    let Scene { fleet, repo } = &scene;
    let _services: Vec<Process> = fleet.hosts().iter().map(supervise).collect();
    write_folder(repo);
    write_version(repo, "one", "warn");
    let first = repo.commit("The service, and its scap folder");
    let coordinator = fleet.coordinator();
    let report = coordinator
        .deploy(repo.dir(), &["-l", "!host13"])
        .expect_done();
    assert_eq!(report.hosts.len(), 12);
    let beta = coordinator
        .deploy(repo.dir(), &["-e", "beta"])
        .expect_done();
    assert_eq!(beta.hosts.len(), 1);
    let before: Vec<(Seen, Tree)> = fleet.hosts().iter().map(seen).collect();
    for (host, (seen, tree)) in fleet.hosts().iter().zip(&before) {
        let name = host.name();
        let is_beta = name == "host13";
        let level = if is_beta { "debug" } else { "warn" };
        assert!(seen.rev.ends_with(&first), "{name}: {seen:?}");
        assert_eq!(
            seen.config,
            format!("version: one\nlevel: {level}\nhost: {name}")
        );
        assert_eq!(seen.service, format!("one {}", seen.config), "{name}");
        let commit = repo.archived(&first);
        assert!(commit != *tree, "what is rendered is in the tree");
        let relative = host.live(REPO).join("public/build.json");
        assert_eq!(
            fs::read_to_string(relative).unwrap(),
            format!("{{\"level\": \"{level}\", \"debug\": null}}")
        );
        // The script, a program of the host in the canary's environment alone, and NRPE's command.
        let checks = [
            ("built", true),
            ("depooled", !is_beta),
            ("asked", is_canary(name)),
        ];
        for (mark, is_there) in checks {
            assert_eq!(folder(host).join(mark).exists(), is_there, "{name}: {mark}");
        }
        host.assert_verifies(REPO);
    }

    // A level that the service does not know: NRPE says so on the canary.
    write_version(repo, "two", "broken");
    repo.commit("Another level");
    fleet.expect_log("not activated");
    let report = coordinator
        .deploy(repo.dir(), &["-l", "!host13"])
        .expect_code(4);
    // The first that says so has all go back; the other may be told before it has said anything.
    let canaries = fleet.hosts().iter().filter(|host| is_canary(host.name()));
    let failed: Vec<&Host> = canaries
        .filter(|host| report.host(host.name()).error.is_some())
        .collect();
    assert!(!failed.is_empty(), "{report:#?}");
    for host in failed {
        assert_eq!(
            report.host(host.name()).error.as_deref(),
            Some(
                "after handle_service: check `endpoints`: ended with exit code 2\nCRITICAL: no such level"
            )
        );
        let restarts = fs::read_to_string(folder(host).join("restarts")).unwrap();
        assert_eq!(restarts.lines().count(), 3, "one, two, and back to one");
    }
    for (host, before) in fleet.hosts().iter().zip(&before) {
        assert_eq!(seen(host).0, before.0, "{}", host.name());
        before.1.assert_is(&host.live(REPO));
        host.assert_verifies(REPO);
        if !is_canary(host.name()) {
            let restarts = fs::read_to_string(folder(host).join("restarts")).unwrap();
            assert_eq!(restarts.lines().count(), 1, "{}", host.name());
        }
    }

    // One with which the service starts, and does not answer.
    write_version(repo, "deaf", "info");
    repo.commit("A service that does not answer");
    let report = coordinator
        .deploy(repo.dir(), &["-l", "!host13", "-D", "service_timeout:2"])
        .expect_code(4);
    let canaries = fleet.hosts().iter().filter(|host| is_canary(host.name()));
    let errors: Vec<&str> = canaries
        .filter_map(|host| report.host(host.name()).error.as_deref())
        .collect();
    assert!(!errors.is_empty(), "{report:#?}");
    for error in errors {
        assert!(
            error.starts_with("handle_service: ") && error.contains("port 8888"),
            "{error}"
        );
    }
    for (host, before) in fleet.hosts().iter().zip(&before) {
        assert_eq!(seen(host).0, before.0, "{}", host.name());
    }

    write_version(repo, "three", "info");
    let third = repo.commit("A level that is one");
    coordinator
        .deploy(repo.dir(), &["-l", "!host13"])
        .expect_done();
    for host in &fleet.hosts()[..12] {
        let (seen, _) = seen(host);
        assert!(seen.rev.ends_with(&third), "{seen:?}");
        assert!(
            seen.service
                .starts_with("three version: three\nlevel: info\n")
        );
    }
}

fn is_canary(name: &str) -> bool {
    ["host1", "host2"].contains(&name)
}

/// Twelve hosts in production and one in beta, each with its own folder, and an empty repo.
fn start() -> Option<Scene> {
    let fleet = Fleet::builder(under_test!()).hosts(13).build()?;
    let coordinator = fleet.coordinator();
    coordinator.init();
    let state = coordinator.state();
    for host in fleet.hosts() {
        if host.name() != "host13" {
            coordinator.enrol(host);
            continue;
        }
        let mut arguments: Vec<OsString> = ["enroll", "host13", "--environment", "beta", "--state"]
            .map(OsString::from)
            .to_vec();
        arguments.extend([state.clone().into(), "--out".into(), host.identity().into()]);
        let enrolled = coordinator.run(arguments, COMMAND_MAX);
        assert_eq!(enrolled.code(), Some(0), "{enrolled:#?}");
    }
    coordinator.write_fleet_file(fleet.hosts().iter());
    for host in fleet.hosts() {
        prepare(host);
        let config = folder(host).join("agent.toml");
        let env = [("SCAP_AGENT_CONFIG", config.to_str().unwrap())];
        host.spawn_agent_by(&within(host), &env);
    }
    for host in fleet.hosts() {
        host.wait_ready();
    }
    Some(Scene::with(fleet))
}

/// What starts a program where the host's folder is at [`ETC`].
fn within(host: &Host) -> Vec<PathBuf> {
    let folder = folder(host);
    let script = format!("mount --bind '{}' {ETC} && exec \"$@\"", folder.display());
    ["unshare", "--mount", "sh", "-c", &script, "sh"]
        .map(PathBuf::from)
        .to_vec()
}

fn folder(host: &Host) -> PathBuf {
    host.station().dir().join("etc")
}

/// What configuration management puts on a host.
fn prepare(host: &Host) {
    let folder = folder(host);
    for directory in ["mobileapps", "nrpe.d", "bin"] {
        fs::create_dir_all(folder.join(directory)).unwrap();
    }
    let write = |path: &str, text: &str| fs::write(folder.join(path), text).unwrap();
    let program = |path: &str, text: &str| {
        write(path, &format!("#!/bin/sh\n{text}"));
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    write(
        "mobileapps/config-vars.yaml",
        &format!("host: {}\n", host.name()),
    );
    write(
        "nrpe.d/mobileapps.cfg",
        &format!("# puppet\ncommand[check_endpoints_mobileapps]={ETC}/bin/endpoints\n"),
    );
    program("bin/depool", &format!("touch {ETC}/depooled\n"));
    program(
        "bin/endpoints",
        &format!(
            "touch {ETC}/asked\nif grep -q 'level: broken' {ETC}/service; then echo 'CRITICAL: no such level'; exit 2; fi\n"
        ),
    );
    // It answers once the service runs.
    program(
        "bin/restart",
        &format!(
            "echo \"$1\" >> {ETC}/restarts\necho \"$1\" > {ETC}/control\nread -r up < {ETC}/up\n"
        ),
    );
    let version = host.live(REPO).join("VERSION");
    program(
        "bin/mobileapps",
        &format!(
            "{{ cat '{0}' | tr '\\n' ' '; cat {ETC}/mobileapps/config.yaml; }} > {ETC}/service\necho up > {ETC}/up\n\
             if grep -q deaf '{0}'; then exec sleep 100000; fi\nexec perl {ETC}/bin/answer {PORT}\n",
            version.display()
        ),
    );
    write("bin/answer", ANSWER);
    program(
        "bin/supervise",
        &format!(
            "pid=\nwhile :; do\n  read -r unit < {ETC}/control\n  if [ -n \"$pid\" ]; then kill \"$pid\"; wait \"$pid\"; fi\n  \
             {ETC}/bin/mobileapps & pid=$!\ndone\n"
        ),
    );
    for pipe in ["control", "up"] {
        let made = std::process::Command::new("mkfifo")
            .arg(folder.join(pipe))
            .status();
        assert!(made.unwrap().success());
    }
    write(
        "agent.toml",
        &format!("[services]\nrestart = [\"{ETC}/bin/restart\", \"{{unit}}\"]\n"),
    );
}

/// Starts what keeps the service of a host running.
fn supervise(host: &Host) -> Process {
    let mut program = within(host);
    program.push(Path::new(ETC).join("bin/supervise"));
    let log = format!("{}-services", host.name());
    host.station()
        .spawn(&log, &program, Vec::<OsString>::new(), &[])
}

fn write_folder(repo: &SourceRepo) {
    let write = |path: &str, text: &str| repo.write(format!("scap/{path}"), text);
    write(
        "scap.cfg",
        &format!(
            "[global]\ngit_repo: {REPO}\nserver_groups: canary, second, default\ncanary_dsh_targets: canaries\n\
             second_dsh_targets: second\ndsh_targets: targets\ndefault_group_size: 4\nconfig_deploy: True\nservice_name: mobileapps\n\
             service_port: {PORT}\nservice_timeout: 60\nnrpe_dir: {ETC}/nrpe.d\n"
        ),
    );
    write("canaries", "host1\nhost2\n");
    write("second", "# the next\nhost3\nhost4\nhost5\nhost6\n");
    write("targets", "host7\nhost8\nhost9\nhost10\nhost11\nhost12\n");
    write(
        "config-files.yaml",
        &format!(
            "{ETC}/mobileapps/config.yaml:\n  template: config.yaml.j2\n  remote_vars: {ETC}/mobileapps/config-vars.yaml\n\
             public/build.json:\n  template: build.json.j2\n  output_format: yaml\n"
        ),
    );
    write(
        "templates/build.json.j2",
        "{\"level\": \"{{ level }}\", \"debug\": {{ debug }}}\n",
    );
    write(
        "templates/config.yaml.j2",
        "version: {{ version }}\nlevel: {{ level }}\nhost: {{ host }}\n",
    );
    write(
        "checks.yaml",
        &format!(
            "checks:\n  build:\n    type: script\n    command: build.sh --production\n    after: fetch\n  depool:\n    type: command\n    \
             command: {ETC}/bin/depool mobileapps\n    before: promote\n  endpoints:\n    type: nrpe\n    command: check_endpoints_mobileapps\n    \
             after: handle_service\n    group: canary\n    timeout: 60\n"
        ),
    );
    write(
        "scripts/build.sh",
        &format!(
            "#!/bin/sh\ntest \"$1\" = --production && test -f \"$SCAP_REV_PATH/VERSION\" && touch {ETC}/built\n"
        ),
    );
    scap_tests::repo::make_executable(&repo.dir().join("scap/scripts/build.sh"));
    write(
        "environments/beta/scap.cfg",
        "[global]\nserver_groups: default\n",
    );
    write("environments/beta/targets", "host13\n");
    write("environments/beta/vars.yaml", "level: debug\n");
    write(
        "environments/beta/checks.yaml",
        "checks:\n  depool: {}\n  endpoints: {}\n",
    );
}

fn write_version(repo: &SourceRepo, version: &str, level: &str) {
    repo.write("VERSION", format!("{version}\n"));
    repo.write(
        "scap/vars.yaml",
        format!("version: {version}\nlevel: {level}\ndebug: null\n"),
    );
}

fn seen(host: &Host) -> (Seen, Tree) {
    let folder = folder(host);
    let config = folder.join("mobileapps/config.yaml");
    let seen = Seen {
        rev: fs::canonicalize(host.live(REPO)).unwrap(),
        config_leads_to: fs::read_link(&config).unwrap(),
        config: fs::read_to_string(&config).unwrap(),
        service: fs::read_to_string(folder.join("service")).unwrap(),
    };
    (seen, Tree::read(&host.live(REPO)))
}
