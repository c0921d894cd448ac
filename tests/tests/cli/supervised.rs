//! Hosts whose service is a process that is supervised, with config files of their own, and a gate around each stage.
//!
//! An agent's current directory is its host's folder, so below `/proc/self/cwd` one path means another file on each host.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scap_tests::fleet::wait_until;
use scap_tests::repo::{SourceRepo, make_executable};
use scap_tests::tree::{Tree, live_release};

use super::fleet::{Agent, Fleet, enroll};
use super::process::{LIMIT, Running, processes_of, send_signal};
use super::scene::Scene;

/// What the repo is called below the deploy root.
pub const REPO: &str = "mw/app";

/// What a tree has beside what is committed: how [`Tree::differences`] begins to tell it.
const RENDERED: [&str; 2] = ["too much: \"conf", "too much: \".git"];

/// Where each host's own config files are, to its agent.
const ETC: &str = "/proc/self/cwd/etc";

/// An agent's further arguments, in its host's folder.
const CONFIG: [&str; 2] = ["--config", "agent.toml"];

/// The gate in the command that starts a service again.
pub const SERVICE: &str = "restart";

/// The checks that there are around each stage on the way, in order, and of which type.
pub const GATES: [(&str, &str); 8] = [
    ("before-fetch", "command"),
    ("after-fetch", "script"),
    ("before-config_deploy", "nrpe"),
    ("after-config_deploy", "command"),
    ("before-promote", "script"),
    ("after-promote", "nrpe"),
    ("before-handle_service", "command"),
    ("after-handle_service", "script"),
];

/// Three such hosts, of which the first is the canary, and the repo that is deployed to them.
pub struct World {
    pub fleet: Fleet,
    pub repo: SourceRepo,
    supervisors: Vec<Supervisor>,
}

/// A host as its users see it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// The deploy root, but for what only the agent looks at: its records, and trees that are not live.
    root: Tree,
    /// The folder of config files, links as links.
    etc: Tree,
    /// What is read there.
    pub config: Option<String>,
    /// What the service's process was started with: version and config.
    pub service: Option<String>,
}

/// What of a release a host's users meet: each of these is of one, and none where there is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Runs {
    /// The version that the live tree is of.
    pub tree: Option<String>,
    pub config: Option<String>,
    pub service: Option<String>,
}

/// What starts a host's service again when it is told to; it ends with its service.
struct Supervisor {
    folder: PathBuf,
    running: Option<Running>,
}

impl World {
    pub fn start() -> Self {
        let scene = Scene::new();
        let root = scene.root().canonicalize().unwrap();
        for (name, text) in programs(&root) {
            scene.write(&format!("bin/{name}"), format!("#!/bin/sh\n{text}"));
            make_executable(&scene.path("bin").join(name));
        }
        let nrpe =
            GATES.map(|(at, _)| format!("command[gate_{at}]={}/bin/gate {at}\n", root.display()));
        scene.write("nrpe.d/app.cfg", nrpe.concat());
        let (mut agents, mut supervisors) = (Vec::new(), Vec::new());
        for name in ["web1", "web2", "web3"] {
            enroll(&scene, name, &[]);
            // Those of the repo the first order makes, and they stay.
            let revs = format!("srv/{REPO}-cache/revs");
            for folder in ["etc", "gates", "service", &revs] {
                make_folder(&scene.path(name).join(folder));
            }
            let restart = root.join("bin/restart");
            let services = format!(
                "[services]\nrestart = ['{}', '{{unit}}']\n",
                restart.display()
            );
            scene.write(&format!("{name}/agent.toml"), services);
            scene.write(
                &format!("{name}/vars.yaml"),
                format!("here: {{name: {name}}}\n"),
            );
            supervisors.push(Supervisor::start(&scene, name));
            agents.push(Agent::start_in_its_folder(
                &scene,
                name,
                "127.0.0.1:0",
                &CONFIG,
            ));
        }
        let repo = SourceRepo::create(&scene.path("repo"));
        let fleet = Fleet { agents, scene };
        fleet.write_fleet_file();
        write_folder(&repo, &root);
        Self {
            fleet,
            repo,
            supervisors,
        }
    }

    /// Commits a version: every file of it is another, so are the config files, and one of these only it has.
    pub fn version(&self, version: &str) -> String {
        self.repo.write("VERSION", format!("{version}\n"));
        self.repo
            .write("src/main.js", format!("serve('{version}');\n").repeat(50));
        self.repo
            .write("scap/vars.yaml", format!("version: {version}\n"));
        self.repo.write(
            "scap/config-files.yaml",
            format!(
                "{ETC}/app.yaml:\n  template: app.yaml.j2\n  remote_vars: /proc/self/cwd/vars.yaml\n\
                 {ETC}/{version}.yaml:\n  template: version.j2\n\
                 conf/version:\n  template: version.j2\n"
            ),
        );
        self.repo.commit(version)
    }

    /// Releases a version that nothing disturbs, and says how long that takes.
    pub fn time_of(&self, version: &str) -> Duration {
        let began = Instant::now();
        self.version(version);
        self.start_deploy(&[]).end().exits(0);
        began.elapsed()
    }

    pub fn start_deploy(&self, more: &[&str]) -> Running {
        self.fleet
            .start_deploy(&[&["--repo", "repo"], more].concat())
    }

    /// What a gate on a host does from now on to a release that is not stable: `hold` it, or `fail` it; `hold-all` and `fail-all` do so
    /// to others, too. [`SERVICE`] can but hold, and whoever comes.
    pub fn set_gate(&self, host: &str, at: &str, what: &str) {
        self.fleet.scene.write(&format!("{host}/gates/{at}"), what);
    }

    /// Waits until somebody is held at a gate.
    pub fn wait_until_held(&self, host: &str, at: &str) {
        let mark = self.fleet.scene.path(host).join("gates/held");
        wait_until(&format!("{host} is at the gate {at}"), LIMIT, || {
            mark.exists().then_some(()).ok_or("it is not")
        });
        fs::remove_file(mark).unwrap();
    }

    /// Has one gate of a host let through whoever comes, and whoever is held.
    pub fn open_gate(&self, host: &str, at: &str) {
        fs::remove_file(self.folder(host).join("gates").join(at)).unwrap();
    }

    /// Has all gates of a host let through whoever comes, and whoever is held.
    pub fn open_gates(&self, host: &str) {
        for at in GATES.map(|(at, _)| at).into_iter().chain([SERVICE]) {
            let gate = self.fleet.scene.path(host).join("gates").join(at);
            if gate.exists() {
                fs::remove_file(gate).unwrap();
            }
        }
    }

    /// Starts the agent of a host again, where it was before and has ended.
    pub fn start_again(&mut self, at: usize, name: &str, address: &str) {
        let agent = Agent::start_in_its_folder(&self.fleet.scene, name, address, &CONFIG);
        self.fleet.agents.insert(at, agent);
    }

    /// The same, which may not be ready yet.
    pub fn launch_again(&self, name: &str, address: &str) -> Running {
        Agent::launch_in_its_folder(&self.fleet.scene, name, address, &CONFIG)
    }

    pub fn folder(&self, host: &str) -> PathBuf {
        self.fleet.scene.path(host)
    }

    /// All hosts, as they are now.
    pub fn seen(&self) -> Vec<Seen> {
        let names = self.fleet.agents.iter().map(Agent::name);
        names.map(|name| Seen::of(&self.folder(name))).collect()
    }

    /// That each host has a commit live, byte for byte, with its config files, and that its service was started with these.
    #[track_caller]
    pub fn assert_all_run(&self, version: &str, commit: &str, case: &str) {
        let expected = self.repo.archived(commit);
        for agent in &self.fleet.agents {
            let found = expected.differences(&Tree::read(&agent.live(REPO)));
            let is_other = |it: &&String| !RENDERED.iter().any(|rendered| it.starts_with(rendered));
            let found: Vec<&String> = found.iter().filter(is_other).collect();
            let of_host = format!("{case}: {}", agent.name());
            assert!(found.is_empty(), "{of_host}: the tree: {found:#?}");
            let folder = self.folder(agent.name());
            let wanted = Runs::of(version, agent.name());
            // A service whose command was killed is started once more, and then runs in its own time.
            wait_until(&format!("{of_host} runs {version}"), LIMIT, || {
                let runs = Runs::on(&folder);
                if runs == wanted { Ok(()) } else { Err(runs) }
            });
        }
    }

    /// That a host knows which release is the stable one.
    #[track_caller]
    pub fn assert_stable(&self, host: &str, sequence: u64) {
        let release = self.fleet.release_of(host);
        assert_eq!(release["finalized_sequence"], sequence, "{release:#}");
    }

    /// That hosts are as they were, in `case`.
    #[track_caller]
    pub fn assert_are(&self, before: &[Seen], case: &str) {
        for (agent, (before, now)) in self.fleet.agents.iter().zip(before.iter().zip(self.seen())) {
            before.assert_is(&now, &format!("{case}: {}", agent.name()));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nobody starts a service again that is ended; and they are known by their folders, which go last.
        self.fleet.agents.clear();
        self.supervisors.clear();
    }
}

impl Seen {
    fn of(folder: &Path) -> Self {
        let srv = folder.join("srv");
        let live = live_release(&srv.join(REPO)).ok();
        let cache = format!("{REPO}-cache");
        let of_agent = |path: &Path| {
            let Ok(below) = path.strip_prefix(&cache) else {
                return false;
            };
            let mut parts = below.iter().map(|part| part.to_str().unwrap());
            match (parts.next(), parts.next()) {
                (Some(".scap" | ".in-progress"), _) => true,
                (Some("revs"), Some(rev)) => live.as_deref() != Some(rev),
                _ => false,
            }
        };
        Self {
            root: Tree::read_with_modes(&srv, of_agent),
            etc: Tree::read_with_modes(&folder.join("etc"), |_| false),
            config: fs::read_to_string(folder.join("etc/app.yaml")).ok(),
            service: service(folder),
        }
    }

    #[track_caller]
    fn assert_is(&self, now: &Self, whose: &str) {
        let root = self.root.differences(&now.root);
        assert!(root.is_empty(), "{whose}: the deploy root: {root:#?}");
        let etc = self.etc.differences(&now.etc);
        assert!(etc.is_empty(), "{whose}: the config files: {etc:#?}");
        assert_eq!(self.config, now.config, "{whose}: the config");
        assert_eq!(self.service, now.service, "{whose}: the service");
    }
}

impl Runs {
    /// All of one version.
    pub fn of(version: &str, host: &str) -> Self {
        let config = format!("version {version} on {host}");
        Self {
            tree: Some(version.to_owned()),
            service: Some(format!("{version}: {config}")),
            config: Some(config),
        }
    }

    /// What a host has now.
    pub fn on(folder: &Path) -> Self {
        let read = |path: PathBuf| fs::read_to_string(path).ok();
        let tree = read(folder.join("srv").join(REPO).join("VERSION"));
        Self {
            tree: tree.map(|version| version.trim_end().to_owned()),
            config: read(folder.join("etc/app.yaml")),
            service: service(folder),
        }
    }
}

/// What the process of a host's service was started with, if it runs.
fn service(folder: &Path) -> Option<String> {
    let pid = fs::read_to_string(folder.join("service/pid")).ok()?;
    let environment = fs::read(format!("/proc/{}/environ", pid.trim())).ok()?;
    let environment = String::from_utf8(environment).unwrap();
    let runs = environment
        .split('\0')
        .find_map(|it| it.strip_prefix("RUNS="));
    Some(runs.expect("it is the service").to_owned())
}

impl Supervisor {
    fn start(scene: &Scene, name: &str) -> Self {
        let folder = scene.path(name).canonicalize().unwrap().join("service");
        for pipe in ["control", "up"] {
            let made = Command::new("mkfifo").arg(folder.join(pipe)).status();
            assert!(made.unwrap().success());
        }
        let mut command = Command::new(scene.path("bin/supervise"));
        let running = scene.start_command(command.current_dir(&folder));
        Self {
            folder,
            running: Some(running),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.running.take());
        for process in processes_of(&self.folder) {
            send_signal(process.pid, Signal::KILL);
        }
    }
}

/// Makes a folder, and those above it, that no group may write to.
fn make_folder(path: &Path) {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .unwrap();
}

/// What is installed on the hosts. Each knows its host by where its release is, or where it runs.
fn programs(root: &Path) -> [(&'static str, String); 4] {
    let host = "host=\"${SCAP_FINAL_PATH%/srv/*}\"\n";
    // A release that is stable passes, but where all are to fail.
    let gate = format!(
        "{host}at=\"$host/gates/$1\"\nwhat=\"$(cat \"$at\" 2> /dev/null)\"\n\
         if [ \"$SCAP_REV_PATH\" = \"$SCAP_DONE_REV_DIR\" ] && [ \"${{what%-all}}\" = \"$what\" ]; then exit 0; fi\n\
         case \"$what\" in\nfail*) echo \"the gate $1 is shut\"; exit 1;;\n\
         hold*) : > \"$host/gates/held\"; while [ -e \"$at\" ]; do sleep 0.02; done;;\nesac\n"
    );
    // It has answered once the service runs, or does not come up.
    let restart = format!(
        "{host}at=\"$host/gates/{SERVICE}\"\nif [ -e \"$at\" ]; then : > \"$host/gates/held\"; fi\n\
         while [ -e \"$at\" ]; do sleep 0.02; done\n\
         cd \"$host/service\" && echo \"$1\" > control && read -r up < up && [ \"$up\" = up ]\n"
    );
    let supervise = format!(
        "pid=\nwhile :; do\n  read -r unit < control\n  if [ -n \"$pid\" ]; then kill \"$pid\"; wait \"$pid\"; fi\n  rm -f pid\n  \
         {}/bin/app & pid=$!\ndone\n",
        root.display()
    );
    // What is in the environment of a process was there when it began.
    let app = format!(
        "version=\"$(cat ../srv/{REPO}/VERSION)\" && config=\"$(cat ../etc/app.yaml)\" || {{ echo down > up; exit 1; }}\n\
         RUNS=\"$version: $config\" exec sh -c 'echo $$ > pid; echo up > up; exec sleep 100000'\n"
    );
    [
        ("gate", gate),
        ("restart", restart),
        ("supervise", supervise),
        ("app", app),
    ]
}

/// A scap folder that asks for all that there is: a config file beside the code and one elsewhere, a check of each type, a
/// service.
fn write_folder(repo: &SourceRepo, root: &Path) {
    let write = |path: &str, text: &str| repo.write(format!("scap/{path}"), text);
    write(
        "scap.cfg",
        &format!(
            "[global]\ngit_repo: {REPO}\nconfig_deploy: True\nservice_name: app\nnrpe_dir: {}/nrpe.d\n",
            root.display()
        ),
    );
    write(
        "templates/app.yaml.j2",
        "version {{ version }} on {{ here.name }}\n",
    );
    write("templates/version.j2", "rendered {{ version }}\n");
    write(
        "scripts/gate.sh",
        &format!("#!/bin/sh\nexec {}/bin/gate \"$1\"\n", root.display()),
    );
    make_executable(&repo.dir().join("scap/scripts/gate.sh"));
    let mut checks = "checks:\n".to_owned();
    for (at, kind) in GATES {
        let command = match kind {
            "command" => format!("{}/bin/gate {at}", root.display()),
            "script" => format!("gate.sh {at}"),
            _ => format!("gate_{at}"),
        };
        let (moment, stage) = at.split_once('-').unwrap();
        let _ = writeln!(
            checks,
            "  {at}: {{type: {kind}, command: {command}, {moment}: {stage}, timeout: 100}}"
        );
    }
    write("checks.yaml", &checks);
}
