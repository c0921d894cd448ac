//! What a scap folder asks of hosts is done there, and when it goes wrong everything is as it was.

use std::path::PathBuf;

use rustix::process::Signal;
use scap_tests::repo::{SourceRepo, make_executable};
use scap_tests::tree::Tree;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, host};
use super::process::Ended;
use super::rollout::wait_for;
use super::scene::Scene;
use super::state_branch::{elsewhere, with_upstream};

/// What the repo is called below the deploy root.
const REPO: &str = "mw/app";

/// A scene whose hosts write down what is done with services, and a repo that asks for everything.
pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) repo: SourceRepo,
}

impl World {
    pub(super) fn start(names: &[&str]) -> Self {
        Self::start_with(names, &[])
    }

    /// The same, with more in the environment of the agents.
    fn start_with(names: &[&str], environment: &[(&str, &str)]) -> Self {
        let scene = Scene::new();
        std::fs::create_dir(scene.path("etc")).unwrap();
        let mut agents = Vec::new();
        for name in names {
            enroll(&scene, name, &[]);
            let live = scene.path(name).join("srv").join(REPO);
            let log = scene.path(format!("{name}/services"));
            let note = format!(
                "echo \"$0 $1 $(cat {}/VERSION)\" >> {}",
                live.display(),
                log.display()
            );
            let command =
                |word: &str| format!("[\"sh\", \"-c\", '''{note}''', \"{word}\", \"{{unit}}\"]");
            scene.write(
                &format!("{name}/agent.toml"),
                format!(
                    "[services]\nrestart = {}\nreload = {}\n",
                    command("restart"),
                    command("reload")
                ),
            );
            let config = format!("{name}/agent.toml");
            let more = ["--config", config.as_str()];
            agents.push(Agent::start_as(&scene, name, &more, environment));
        }
        let repo = SourceRepo::create(&scene.path("repo"));
        let fleet = Fleet { agents, scene };
        fleet.write_fleet_file();
        let world = Self { fleet, repo };
        world.write_folder();
        world
    }

    fn write_folder(&self) {
        let write = |path: &str, text: &str| self.repo.write(format!("scap/{path}"), text);
        write(
            "scap.cfg",
            "[global]\ngit_repo: mw/app\nconfig_deploy: True\nservice_name: app, helper=reload\n",
        );
        write("vars.yaml", "level: warn\n");
        write(
            "config-files.yaml",
            &format!(
                "{}:\n  template: app.yaml.j2\nconf/version:\n  template: version.j2\n",
                self.destination().display()
            ),
        );
        write("templates/version.j2", "rendered {{ level }}\n");
        self.template("level: {{ level }}\nversion: one\n");
        self.checks("");
        self.version("one");
    }

    fn template(&self, text: &str) {
        self.repo.write("scap/templates/app.yaml.j2", text);
    }

    pub(super) fn version(&self, version: &str) {
        self.repo.write("VERSION", format!("{version}\n"));
        self.template(&format!("level: {{{{ level }}}}\nversion: {version}\n"));
    }

    /// A check that passes, and others.
    fn checks(&self, others: &str) {
        self.repo.write(
            "scap/scripts/build.sh",
            "#!/bin/sh\ntouch \"$SCAP_REV_PATH/built\"\n",
        );
        make_executable(&self.repo.dir().join("scap/scripts/build.sh"));
        let build = "checks:\n  build: {type: script, command: build.sh, after: fetch}\n";
        self.repo
            .write("scap/checks.yaml", format!("{build}{others}"));
    }

    /// Where the config file goes.
    pub(super) fn destination(&self) -> PathBuf {
        self.fleet
            .scene
            .root()
            .canonicalize()
            .unwrap()
            .join("etc/app.yaml")
    }

    pub(super) fn deploy(&self, message: &str, more: &[&str]) -> Ended {
        self.repo.commit(message);
        self.fleet.deploy(&[&["--repo", "repo"], more].concat())
    }

    fn live(&self) -> PathBuf {
        self.fleet.agents[0].live(REPO)
    }

    /// What was done with services on a host.
    fn handled(&self, name: &str) -> Vec<String> {
        let log = self.fleet.scene.path(format!("{name}/services"));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn config(&self) -> String {
        std::fs::read_to_string(self.destination()).unwrap()
    }
}

fn error_of(ended: &Ended, name: &str) -> String {
    let report = deployed(ended);
    host(&report, name)["error"].as_str().unwrap().to_owned()
}

#[test]
fn config_files_are_rendered_and_switched_with_the_code_and_services_are_handled() {
    let world = World::start(&["web1"]);
    let ended = world.deploy("One", &[]).exits(0);
    let ended = ended.says(&["on each host: 2 config files, 1 check, restart app, reload helper"]);
    assert!(deployed(&ended)["config_snapshot"].is_string());
    assert_eq!(world.config(), "level: warn\nversion: one");
    let live = world.live();
    let rendered = |path: &str| std::fs::read_to_string(live.join(path)).unwrap();
    assert_eq!(rendered("conf/version"), "rendered warn");
    assert!(live.join("built").exists(), "the script ran in the release");
    let final_path = std::path::absolute(&live).unwrap();
    let leads_to = std::fs::read_link(world.destination()).unwrap();
    assert!(
        leads_to.ends_with(format!(
            "mw/app/.git/config-files{}",
            world.destination().display()
        )),
        "{} leads to {}, of {}",
        world.destination().display(),
        leads_to.display(),
        final_path.display()
    );
    assert_eq!(
        world.handled("web1"),
        ["restart app one", "reload helper one"]
    );
    // What is rendered is no difference; what the script left is.
    let view = world
        .fleet
        .verify("web1", REPO)
        .exits(1)
        .json("scap.verify/1");
    assert_eq!(view["differences"], json!(["built: not in the snapshot"]));

    world.version("two");
    world.deploy("Two", &[]).exits(0);
    assert_eq!(world.config(), "level: warn\nversion: two");
    assert_eq!(
        world.handled("web1")[2..],
        ["restart app two", "reload helper two"]
    );
    // The same again is nothing to do.
    world.fleet.deploy(&["--repo", "repo"]).exits(0);
    assert_eq!(world.handled("web1").len(), 4);
    // The same tree with other config is a release of its own.
    world
        .fleet
        .scene
        .write("repo/scap/vars.yaml", "level: debug\n");
    world
        .fleet
        .deploy(&["--repo", "repo", "--scap", "repo/scap"])
        .exits(0);
    assert_eq!(world.config(), "level: debug\nversion: two");

    // A rollback releases the old tree with what it asked then.
    let back = [
        "rollback",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--json",
        "--repo",
        "repo",
    ];
    let ended = world.fleet.scene.scap(&back).exits(0);
    assert!(deployed(&ended)["config_snapshot"].is_string());
    assert_eq!(world.config(), "level: warn\nversion: one");
    assert_eq!(
        world.handled("web1")[6..],
        ["restart app one", "reload helper one"]
    );
}

#[test]
fn a_check_that_fails_takes_code_config_and_services_back_and_says_why() {
    let world = World::start(&["web1"]);
    world.deploy("One", &[]).exits(0);
    let before = Tree::read(&world.live());
    world.version("two");
    world.checks("  answers: {type: command, shell: true, command: 'echo no answer; echo of two; exit 7', after: promote}\n");
    // A config file that only the new release has.
    let other = world.destination().with_file_name("other.yaml");
    world.repo.write(
        "scap/config-files.yaml",
        format!(
            "{}:\n  template: app.yaml.j2\n{}:\n  template: version.j2\n",
            world.destination().display(),
            other.display()
        ),
    );
    let ended = world.deploy("Two", &[]).exits(4);
    let reason = "after promote: check `answers`: ended with exit code 7";
    assert_eq!(
        error_of(&ended, "web1"),
        format!("{reason}\nno answer\nof two")
    );
    let ended = ended.says(&[&format!(
        "failed web1: {reason} [check-failed]\n    no answer\n    of two\n"
    )]);
    let report = deployed(&ended);
    assert_eq!(report["code"], "budget-exceeded");
    assert_eq!(host(&report, "web1")["code"], "check-failed");
    before.assert_is(&world.live());
    assert_eq!(world.config(), "level: warn\nversion: one");
    assert!(std::fs::symlink_metadata(&other).is_err());
    // The services of the new release were not handled: its check came first.
    assert_eq!(
        world.handled("web1")[2..],
        ["restart app one", "reload helper one"]
    );
    let names = std::fs::read_dir(world.destination().parent().unwrap()).unwrap();
    assert_eq!(names.count(), 1, "nothing is left beside the config file");
}

#[test]
fn a_check_that_is_run_is_told_by_its_name_and_how_it_failed_by_its_code() {
    let world = World::start(&["web1"]);
    let go = world.fleet.scene.path("go");
    world.checks(&format!(
        "  slow: {{type: command, shell: true, command: 'while ! test -e {}; do sleep 0.1; done; exit 7', \
         after: promote, timeout: 600}}\n",
        go.display()
    ));
    world.repo.commit("One");
    let deploy = world.fleet.start_deploy(&["--repo", "repo"]);
    let read = |command: &[&str], schema: &str| {
        let place = ["--json", "--state", "st", "--repo", "repo"];
        let command = [command, &place[..]].concat();
        world.fleet.scene.scap(&command).exits(0).json(schema)
    };
    let limit = super::process::LIMIT;
    let status = scap_tests::fleet::wait_until("web1 is at the check", limit, || {
        let status = read(&["status"], "scap.status/1");
        let steps = &status["running"][0]["wait"]["steps"];
        steps[0].is_object().then(|| status.clone()).ok_or(status)
    });
    let slow =
        json!({ "code": "check", "name": "slow", "limit_seconds": 600.0, "hosts": ["web1"] });
    assert_eq!(status["running"][0]["wait"]["steps"], json!([slow]));
    let shown = ["status", "--state", "st", "--repo", "repo"];
    let shown = world.fleet.scene.scap(&shown).exits(0);
    shown.prints(&["wait promotion of wave ", "on web1, at check `slow` (web1)"]);
    let why = read(&["why", "web1"], "scap.why/1");
    let link = &why["found"][0]["chain"][1];
    assert_eq!(link["text"], "it says that it is at check `slow`");
    let left = link["left_seconds"].as_f64().unwrap();
    assert!((500.0..=600.0).contains(&left), "{link}");
    let agent = super::fleet::status(&world.fleet.scene, "web1").json("scap.agent-status/1");
    let repo = &agent["releases"][0];
    assert_eq!(
        (&repo["waiting"], &repo["code"]),
        (&json!("check `slow`"), &json!("check"))
    );

    std::fs::write(&go, "").unwrap();
    deploy.end().exits(4);
    let release = read(&["show", "1"], "scap.release/1");
    assert_eq!(release["code"], "budget-exceeded");
    let why = read(&["why", "web1"], "scap.why/1");
    let chain = why["found"][0]["chain"].as_array().unwrap();
    assert!(
        chain.iter().any(|link| link["code"] == "budget-exceeded"),
        "{why:#}"
    );
}

#[test]
fn a_check_that_fails_only_while_it_soaks_takes_all_back() {
    let world = World::start(&["web1"]);
    world.deploy("One", &[]).exits(0);
    let before = Tree::read(&world.live());
    world.version("two");
    let runs = world.fleet.scene.path("runs");
    let ill = world.fleet.scene.path("ill");
    world.checks(&format!(
        "  health: {{type: command, shell: true, command: 'echo x >> {}; test ! -e {} || {{ echo ill; exit 7; }}', \
         after: handle_service, every: 1}}\n",
        runs.display(),
        ill.display()
    ));
    world.repo.commit("Two");
    let mut deploy = world
        .fleet
        .start_deploy(&["--repo", "repo", "--soak", "600"]);
    wait_for(&world.fleet, &mut deploy, "soak");
    // It goes on as long as it passes.
    scap_tests::fleet::wait_until(
        "the check has run again, twice",
        super::process::LIMIT,
        || {
            let runs = std::fs::read_to_string(&runs).unwrap_or_default();
            (runs.lines().count() >= 3).then_some(()).ok_or(runs)
        },
    );
    std::fs::write(&ill, "").unwrap();
    let ended = deploy.end().exits(4);
    assert_eq!(
        error_of(&ended, "web1"),
        "while it soaks: check `health`: ended with exit code 7\nill"
    );
    before.assert_is(&world.live());
    assert_eq!(world.config(), "level: warn\nversion: one");
    assert_eq!(world.handled("web1").last().unwrap(), "reload helper one");
}

#[test]
fn a_first_deployment_that_fails_leaves_what_stood_there_before() {
    let world = World::start(&["web1"]);
    std::fs::write(world.destination(), "an administrator's\n").unwrap();
    world.checks("  answers: {command: 'false', after: handle_service}\n");
    let ended = world.deploy("One", &[]).exits(4);
    assert_eq!(
        error_of(&ended, "web1"),
        "after handle_service: check `answers`: ended with exit code 1"
    );
    assert!(!world.live().exists());
    assert!(!world.destination().is_symlink());
    assert_eq!(world.config(), "an administrator's\n");
    let names = std::fs::read_dir(world.destination().parent().unwrap()).unwrap();
    assert_eq!(names.count(), 1);

    world.checks("");
    world.deploy("Two", &[]).exits(0);
    assert_eq!(world.config(), "level: warn\nversion: one");
    let aside = world.destination().with_file_name("app.yaml.replaced-1");
    assert_eq!(
        std::fs::read_to_string(aside).unwrap(),
        "an administrator's\n"
    );
}

#[test]
fn a_check_that_hangs_is_killed_and_a_template_that_does_not_fit_fails_its_host_alone() {
    let world = World::start(&["web1", "web2"]);
    world.checks("  hangs: {command: sleep 1000, before: promote, timeout: 1}\n");
    let ended = world.deploy("One", &[]).exits(4);
    assert_eq!(
        error_of(&ended, "web1"),
        "before promote: check `hangs`: was not done within 1 s, and was killed"
    );
    assert!(!world.live().exists());

    world.checks("");
    for name in ["web1", "web2"] {
        let vars = world.fleet.scene.path(format!("{name}/vars.yaml"));
        std::fs::write(vars, "port: 80\n").unwrap();
    }
    // Variables of the host: one has them at its place.
    let vars = world
        .fleet
        .scene
        .root()
        .canonicalize()
        .unwrap()
        .join("vars.yaml");
    let file = "{template: version.j2, remote_vars: VARS}";
    world.repo.write(
        "scap/config-files.yaml",
        format!(
            "conf/version: {}\n",
            file.replace("VARS", &vars.display().to_string())
        ),
    );
    let ended = world.deploy("Two", &[]).exits(4);
    let reason = error_of(&ended, "web1");
    assert!(
        reason.starts_with("config_deploy: render conf/version: "),
        "{reason}"
    );
    assert!(!world.live().exists());
    std::fs::write(&vars, "level: loud\n").unwrap();
    world.fleet.deploy(&["--repo", "repo"]).exits(0);
    let version = std::fs::read_to_string(world.live().join("conf/version")).unwrap();
    assert_eq!(version, "rendered loud");
}

#[test]
fn services_are_handled_though_the_activator_dies_between_the_switch_and_them() {
    let world = World::start_with(&["web1"], &[("SCAP_FAILPOINT", "switched")]);
    world.deploy("One", &[]).exits(0);
    let died = world
        .fleet
        .scene
        .path("web1/srv/mw/app-cache/.scap/failpoint-switched");
    assert!(died.exists(), "it did not die");
    assert_eq!(
        world.handled("web1"),
        ["restart app one", "reload helper one"]
    );

    // On the way back, too.
    std::fs::remove_file(&died).unwrap();
    world.version("two");
    world.checks("  answers: {command: 'false', after: handle_service}\n");
    world.deploy("Two", &[]).exits(4);
    assert!(died.exists());
    assert_eq!(world.config(), "level: warn\nversion: one");
    assert_eq!(world.handled("web1").last().unwrap(), "reload helper one");
}

#[test]
fn an_activator_that_is_killed_in_a_check_runs_it_again() {
    let world = World::start(&["web1"]);
    let marker = world.fleet.scene.path("checked");
    let gate = world.fleet.scene.path("gate");
    world.checks(&format!(
        "  gate: {{type: command, shell: true, command: 'echo $$ >> {}; until test -e {}; do sleep 0.1; done', after: promote, timeout: 100}}\n",
        marker.display(),
        gate.display()
    ));
    world.repo.commit("One");
    let deploy = world.fleet.start_deploy(&["--repo", "repo"]);
    let runs = || std::fs::read_to_string(&marker).map_or(0, |text| text.lines().count());
    let wait_for_run = |number: usize| {
        let what = format!("the check runs, {number} times by now");
        scap_tests::fleet::wait_until(&what, super::process::LIMIT, || {
            (runs() == number).then_some(()).ok_or_else(runs)
        });
    };
    wait_for_run(1);
    super::process::send_signal(world.fleet.agents[0].activator().pid, Signal::KILL);
    wait_for_run(2);
    let first = std::fs::read_to_string(&marker).unwrap();
    let first = first.lines().next().unwrap();
    // Nobody waits for it but the system, which may take its time.
    scap_tests::fleet::wait_until("the first one is gone", super::process::LIMIT, || {
        let state = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
        let is_gone = state.is_empty() || state.contains(") Z ");
        is_gone.then_some(()).ok_or(state)
    });
    std::fs::write(&gate, "").unwrap();
    deploy.end().exits(0);
    assert_eq!(runs(), 2);
    assert_eq!(
        world.handled("web1"),
        ["restart app one", "reload helper one"]
    );
}

#[test]
fn a_release_that_asks_something_is_gone_on_with_on_another_machine_and_nothing_is_done_twice() {
    let world = World::start(&["web1"]);
    let fleet = &world.fleet;
    with_upstream(fleet);
    world.deploy("One", &[]).exits(0);
    world.version("two");
    world.repo.commit("Two");
    elsewhere(fleet);
    let mut first = fleet.start_deploy(&["--repo", "repo", "--soak", "600"]);
    wait_for(fleet, &mut first, "soak");
    first.signal(Signal::KILL);
    first.end();
    let resume = ["resume", "--state", "st2", "--repo", "repo2", "--yes"];
    let of = ["--fleet", "fleet.toml", "--soak", "0", "--json"];
    let ended = fleet.scene.scap(&[&resume[..], &of].concat()).exits(0);
    let report = deployed(&ended);
    assert_eq!(
        (&report["sequence"], &report["outcome"]),
        (&json!(2), &json!("done"))
    );
    assert!(report["config_snapshot"].is_string(), "{report:#}");
    assert_eq!(world.config(), "level: warn\nversion: two");
    let handled = world.handled("web1");
    assert_eq!(handled[2..], ["restart app two", "reload helper two"]);
}

#[test]
fn what_hosts_are_asked_is_shown_before_and_nothing_is_written() {
    let world = World::start(&["web1"]);
    world.repo.commit("One");
    let ended = world
        .fleet
        .deploy(&["--repo", "repo", "--dry-run"])
        .exits(0);
    let plan: Value = ended.json("scap.dry-run/1");
    let asked = &plan["asked"];
    assert_eq!(asked["checks"], json!(["build"]));
    assert_eq!(asked["services"], json!(["app", "helper"]));
    assert_eq!(asked["config_files"][1], "conf/version");
    // Nothing is asked without its keys.
    let nothing = [
        "--repo",
        "repo",
        "-D",
        "config_deploy:false",
        "-D",
        "perform_checks:false",
        "-D",
        "service_name:",
    ];
    let ended = world.fleet.deploy(&nothing).exits(0);
    assert_eq!(deployed(&ended)["config_snapshot"], Value::Null);
    assert!(world.handled("web1").is_empty());
    assert!(!world.destination().exists());
}
