//! Scap folders, as scap3's users have them, wherever they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, host};
use super::process::Ended;
use super::rollout::{say, wait_for};
use super::scene::Scene;

const DOING: &str = "read the scap folder";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy-examples")
}

/// Copies the example folder to `to`.
fn copy_example(to: &Path) {
    let from = examples().join("scap3-folder");
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-a").args([&from, to]).status();
    assert!(copied.unwrap().success());
}

fn git(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args([
        "-c",
        "user.name=Ada",
        "-c",
        "user.email=ada@example.org",
    ]);
    command
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments);
    let output = command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
}

/// `config` of `repo`, on a machine that is in no domain of ours.
fn config(scene: &Scene, more: &[&str]) -> Ended {
    let common = ["config", "--repo", "repo", "--host-name", "d1.example.net"];
    scene.scap(&[&common, more].concat())
}

fn config_json(scene: &Scene, more: &[&str]) -> Value {
    let more = [more, &["--json"]].concat();
    config(scene, &more).exits(0).json("scap.config/1")
}

#[test]
fn the_example_folder_says_what_its_comments_say() {
    let scene = Scene::empty();
    let (repo, _) = scene.repo();
    copy_example(&scene.path("repo/scap"));
    let commit = repo.commit("The example");
    let said = config_json(&scene, &[]);
    assert_eq!(said["folder"], format!("scap/ of commit {commit}"));
    assert_eq!(said["environment"], "production");
    assert_eq!(
        said["settings"]["git_repo"],
        json!({ "value": "mobileapps/deploy", "from": "scap/scap.cfg:4" })
    );
    assert_eq!(said["settings"]["cache_revs"]["from"], "default");
    let groups = said["groups"].as_array().unwrap();
    assert_eq!(
        groups[0]["hosts"],
        json!([{ "name": "scb1001.example.org", "from": "scap/canaries:2" }])
    );
    assert_eq!(
        (
            &groups[1]["group_size"],
            groups[1]["hosts"].as_array().unwrap().len()
        ),
        (&json!(4), 5)
    );
    let checks = said["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 3);
    assert_eq!(checks[1]["command"], json!(["build.sh", "--production"]));
    assert_eq!(checks[2]["when"], "after handle_service");
    assert_eq!(
        said["config_files"][0]["destination"],
        "/etc/mobileapps/config.yaml"
    );
    assert_eq!(said["vars"]["log_level"], "warn");
    assert_eq!(said["services"][0]["action"], "reload");
    assert_eq!(said["notes"], json!([]));

    // The environment, as it is said, and as the machine's name says it.
    let host_name = ["--host-name", "deploy1.beta.example.org"];
    let common = ["config", "--repo", "repo", "--json"];
    let by_name = scene
        .scap(&[&common[..], &host_name].concat())
        .exits(0)
        .json("scap.config/1");
    let said = config_json(&scene, &["-e", "beta", "-D", "cache_revs:2"]);
    for said in [&said, &by_name] {
        assert_eq!(said["environment"], "beta");
        assert_eq!(said["vars"]["log_level"], "debug");
        assert_eq!(said["checks"].as_array().unwrap().len(), 1);
        assert_eq!(said["groups"].as_array().unwrap().len(), 1);
        assert_eq!(said["services"][0]["action"], "restart");
    }
    assert_eq!(
        said["settings"]["cache_revs"],
        json!({ "value": "2", "from": "-D" })
    );
    assert_eq!(said["settings"]["environment"]["from"], "--environment");
    assert_eq!(
        by_name["settings"]["environment"]["from"],
        "scap/scap.cfg:23"
    );

    config(&scene, &[]).exits(0).prints(&[
        "scap folder: scap/ of commit",
        "mobileapps/deploy  (scap/scap.cfg:4)",
        "canary: 1 hosts, at most 0 may fail",
        "default: 5 hosts (scb1001.example.org goes with a group before it), 4 at a time, at most 0 may fail",
        "config file /etc/mobileapps/config.yaml from templates/config.yaml.j2",
        "check endpoints after handle_service, in group canary only",
        "reload mobileapps",
    ]);
}

#[test]
fn the_native_example_says_the_same_and_more() {
    let scene = Scene::empty();
    let (repo, _) = scene.repo();
    copy_example(&scene.path("repo/scap"));
    for file in [
        "scap.cfg",
        "checks.yaml",
        "config-files.yaml",
        "vars.yaml",
        "canaries",
    ] {
        std::fs::remove_file(scene.path("repo/scap").join(file)).unwrap();
    }
    std::fs::remove_dir_all(scene.path("repo/scap/environments")).unwrap();
    std::fs::copy(
        examples().join("scap.toml"),
        scene.path("repo/scap/scap.toml"),
    )
    .unwrap();
    repo.commit("The native example");
    let said = config_json(&scene, &[]);
    let groups = said["groups"].as_array().unwrap();
    assert_eq!(
        (&groups[0]["soak_seconds"], &groups[1]["group_size"]),
        (&json!(300.0), &json!(4))
    );
    assert_eq!(said["checks"][0]["group"], "canary");
    assert_eq!(said["notes"], json!([]));
}

#[test]
fn a_folder_is_taken_from_the_commit_its_submodule_or_beside_it() {
    let scene = Scene::empty();
    let (repo, _) = scene.repo();
    let folder = |scene: &Scene, more: &[&str]| {
        config_json(scene, more)["folder"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(folder(&scene, &[]), "none");

    // Beside it, and not in the commit: a checkout of its own that git ignores.
    copy_example(&scene.path("repo/scap"));
    std::fs::write(scene.path("repo/.git/info/exclude"), "/scap\n").unwrap();
    let beside = format!(
        "{}, which is in no commit",
        scene.path("repo/scap").canonicalize().unwrap().display()
    );
    assert_eq!(folder(&scene, &[]), beside);
    // The same of the repo by its git directory; and below its top there is no repo.
    let name = ["--host-name", "d1.example.net"];
    let of = |repo: &str| scene.scap(&[&["config", "--repo", repo, "--json"], &name[..]].concat());
    let said = of("repo/.git").exits(0).json("scap.config/1");
    assert_eq!(said["folder"], beside);
    of("repo/src").exits(1).says(&["not a git repository"]);
    // One that git keeps elsewhere, as that of a linked work tree.
    git(
        &scene.path("repo"),
        &["worktree", "add", "--quiet", "../linked"],
    );
    copy_example(&scene.path("linked/scap"));
    let said = of("linked").exits(0).json("scap.config/1");
    assert!(said["folder"].as_str().unwrap().contains("/linked/scap, "));
    // A bare repo has nothing beside it.
    git(
        scene.root(),
        &["clone", "--quiet", "--bare", "repo", "bare"],
    );
    let bare = scene
        .scap(&["config", "--repo", "bare", "--json"])
        .exits(0)
        .json("scap.config/1");
    assert_eq!(bare["folder"], "none");
    // What is only called so is not taken for nothing: that would be all hosts.
    std::fs::rename(scene.path("repo/scap"), scene.path("elsewhere")).unwrap();
    scene.write("repo/scap/main.py", "print()\n");
    let no_config = "repo/scap, which is in no commit has neither scap.cfg nor scap.toml";
    config(&scene, &[]).fails(2, DOING, no_config, "--scap");
    std::fs::remove_dir_all(scene.path("repo/scap")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", scene.path("repo/scap")).unwrap();
    let link = "is a file or a link; a folder was expected";
    config(&scene, &[]).fails(2, DOING, link, "--scap");
    std::fs::remove_file(scene.path("repo/scap")).unwrap();
    assert_eq!(
        folder(&scene, &["--scap", "elsewhere"]),
        "elsewhere, as --scap says"
    );
    config(&scene, &["--scap", "repo/src"]).fails(
        2,
        DOING,
        "repo/src has neither scap.cfg nor scap.toml",
        "--scap",
    );

    // A submodule, at the commit that is named, whatever is checked out there.
    git(&scene.path("elsewhere"), &["init", "--quiet"]);
    git(&scene.path("elsewhere"), &["add", "--all"]);
    git(
        &scene.path("elsewhere"),
        &["commit", "--quiet", "--message", "scap"],
    );
    std::fs::write(scene.path("repo/.git/info/exclude"), "").unwrap();
    let url = scene.path("elsewhere");
    git(
        &scene.path("repo"),
        &["submodule", "--quiet", "add", url.to_str().unwrap(), "scap"],
    );
    repo.commit("A submodule");
    std::fs::write(
        scene.path("repo/scap/scap.cfg"),
        "[global]\ngit_repo: not/committed\n",
    )
    .unwrap();
    let said = config_json(&scene, &[]);
    assert!(
        said["folder"]
            .as_str()
            .unwrap()
            .starts_with("submodule scap at its commit "),
        "{said:#}"
    );
    assert_eq!(said["settings"]["git_repo"]["value"], "mobileapps/deploy");
    // One that is nowhere here.
    std::fs::remove_dir_all(scene.path("repo/scap")).unwrap();
    std::fs::rename(scene.path("repo/.git/modules/scap"), scene.path("gone")).unwrap();
    config(&scene, &[]).fails(
        2,
        DOING,
        "is a submodule, at commit",
        "git submodule update",
    );

    // In the commit, although something else is beside it.
    let other = Scene::empty();
    let (repo, _) = other.repo();
    repo.write("scap/scap.cfg", "[global]\ngit_repo: in/commit\n");
    let commit = repo.commit("scap.cfg");
    repo.write("scap/scap.cfg", "[global]\ngit_repo: not/committed\n");
    let said = config_json(&other, &[]);
    assert_eq!(said["folder"], format!("scap/ of commit {commit}"));
    assert_eq!(said["settings"]["git_repo"]["value"], "in/commit");
    let said = other
        .scap(&["config", "--dir", "repo", "--json"])
        .exits(0)
        .json("scap.config/1");
    assert_eq!(said["settings"]["git_repo"]["value"], "not/committed");
}

#[test]
fn a_file_that_is_named_says_the_keys_and_is_named_where_it_cannot_be_read() {
    let scene = Scene::new();
    let (repo, _) = scene.repo();
    repo.write(
        "scap/scap.cfg",
        "[global]\ngit_repo: of/folder\ngroup_size: 2\n",
    );
    repo.commit("scap.cfg");
    scene.write("other.cfg", "[global]\ngit_repo: of/conf\n");
    let said = config_json(&scene, &["-c", "other.cfg", "-D", "cache_revs:3"]);
    assert_eq!(
        said["settings"]["git_repo"],
        json!({ "value": "of/conf", "from": "other.cfg:2" })
    );
    assert_eq!(said["settings"]["cache_revs"]["from"], "-D");
    assert_eq!(said["settings"].get("group_size"), None);
    let said = config_json(&scene, &["--no-local-config"]);
    assert_eq!(said["settings"].get("git_repo"), None);
    scene.write("broken.cfg", "[global]\ngit_repo: a/b\nnonsense\n");
    let host = "[[host]]\nname = 'web1'\naddress = '127.0.0.1:9'\n";
    scene.write("fleet.toml", host);
    for command in [
        &["config"][..],
        &[
            "deploy",
            "--state",
            "st",
            "--fleet",
            "fleet.toml",
            "--dry-run",
        ],
    ] {
        let with = |file: &str| {
            let arguments = [command, &["--repo", "repo", "-c", file]].concat();
            scene.scap(&arguments).exits(2)
        };
        with("broken.cfg").says(&[DOING, "broken.cfg:3: "]);
        with("none.cfg").says(&[DOING, "read none.cfg"]);
    }
}

/// A folder with a template at `to`.
fn write_template(fleet: &Fleet, to: &str, level: &str) {
    let write = |name: &str, content: &str| fleet.scene.write(&format!("{to}/{name}"), content);
    write(
        "scap.cfg",
        "[global]\ngit_repo: mw/app\nconfig_deploy: true\n",
    );
    write("vars.yaml", &format!("level: {level}\n"));
    write("config-files.yaml", "conf/level:\n  template: level.j2\n");
    write("templates/level.j2", "rendered {{ level }}\n");
}

#[track_caller]
fn assert_rendered(fleet: &Fleet, level: &str) {
    for agent in &fleet.agents {
        let rendered = agent.live("mw/app").join("conf/level");
        let rendered = std::fs::read_to_string(rendered).unwrap();
        assert_eq!(rendered.trim_end(), format!("rendered {level}"));
    }
}

#[test]
fn hosts_render_the_templates_of_a_folder_that_is_an_ignored_checkout_beside_the_commit() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    std::fs::write(repo.dir().join(".git/info/exclude"), "/scap\n").unwrap();
    write_template(&fleet, "repo/scap", "one");
    let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
    let ended = ended.says(&["repo/scap, which is in no commit"]);
    assert_rendered(&fleet, "one");
    let first = deployed(&ended);
    assert_eq!(first["commit"], commit.as_str());
    // The same commit with other configuration is another release, and going back brings the old one back.
    write_template(&fleet, "repo/scap", "two");
    let second = deployed(&fleet.deploy(&["--repo", "repo"]).exits(0));
    assert_rendered(&fleet, "two");
    assert_eq!(
        (&second["commit"], &second["sequence"]),
        (&first["commit"], &json!(2))
    );
    let back = [
        "rollback",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--repo",
        "repo",
    ];
    fleet.scene.scap(&[&back[..], &["#1"]].concat()).exits(0);
    assert_rendered(&fleet, "one");
}

#[test]
fn hosts_render_the_templates_of_a_folder_that_is_a_submodule_as_the_commit_names_it() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    write_template(&fleet, "config", "one");
    let folder = fleet.scene.path("config");
    let keep = |message: &str| {
        git(&folder, &["add", "--all"]);
        git(&folder, &["commit", "--quiet", "--message", message]);
    };
    git(&folder, &["init", "--quiet"]);
    keep("One");
    let url = folder.to_str().unwrap();
    git(repo.dir(), &["submodule", "--quiet", "add", url, "scap"]);
    let first = repo.commit("A submodule");
    // What is checked out there is not what the commit names.
    write_template(&fleet, "repo/scap", "edited");
    let ended = fleet.deploy(&["--repo", "repo"]).exits(0);
    ended.says(&["submodule scap at its commit "]);
    assert_rendered(&fleet, "one");
    write_template(&fleet, "config", "two");
    keep("Two");
    let checkout = repo.dir().join("scap");
    git(&checkout, &["checkout", "--quiet", "."]);
    git(&checkout, &["pull", "--quiet", "--ff-only"]);
    repo.commit("The submodule moves on");
    fleet.deploy(&["--repo", "repo"]).exits(0);
    assert_rendered(&fleet, "two");
    fleet.deploy(&["--repo", "repo", "--rev", &first]).exits(0);
    assert_rendered(&fleet, "one");
}

#[test]
fn what_a_commit_has_of_that_name_is_a_folder_or_an_error() {
    let code = Scene::empty();
    let (repo, _) = code.repo();
    repo.write("scap/main.py", "print()\n");
    repo.commit("Code that is called so");
    let no_config = "has neither scap.cfg nor scap.toml";
    config(&code, &[]).fails(2, DOING, no_config, "--scap");
    std::fs::remove_dir_all(code.path("repo/scap")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", code.path("repo/scap")).unwrap();
    repo.commit("A link");
    let link = "is a file or a link; a folder was expected";
    config(&code, &[]).fails(2, DOING, link, "--scap");
    // A configuration of one environment makes a folder, for that one.
    std::fs::remove_file(code.path("repo/scap")).unwrap();
    let beta = "[global]\ngit_repo: of/beta\n";
    repo.write("scap/environments/beta/scap.cfg", beta);
    repo.commit("An environment");
    let said = config_json(&code, &["-e", "beta"]);
    assert_eq!(said["settings"]["git_repo"]["value"], "of/beta");
    let for_beta = "scap.cfg and scap.toml are there for beta only";
    config(&code, &[]).exits(2).says(&[DOING, for_beta]);
    let unknown = "there is no environment `bet`";
    config(&code, &["-e", "bet"])
        .exits(2)
        .says(&[DOING, unknown]);
}

/// Three agents, and a folder with two groups of them.
fn fleet() -> (Fleet, scap_tests::repo::SourceRepo) {
    let fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, _) = fleet.scene.repo();
    repo.write(
        "scap/scap.cfg",
        "[global]\ngit_repo: mw/app\nserver_groups: first, default\nfirst_dsh_targets: first\ndsh_targets: all\n\
         group_size: 1\nbatch_size: 9\n",
    );
    repo.write("scap/first", "web3\n");
    repo.write("scap/all", "web1\nweb2\nweb3\n");
    (fleet, repo)
}

#[test]
fn a_deployment_goes_through_the_server_groups() {
    let (fleet, repo) = fleet();
    let commit = repo.commit("A scap folder");
    let arguments = ["--repo", "repo", "Fix", "the site"];
    let ended = fleet.deploy(&arguments).exits(0);
    let ended = ended.says(&[
        &format!("scap folder: scap/ of commit {commit}"),
        "warning: scap/scap.cfg:7: `batch_size` is not acted on: hosts are not reached by ssh",
        "wave first  1 hosts  may lose 0",
        "wave default  2 hosts in 2 groups  may lose 0",
    ]);
    let report = deployed(&ended);
    assert_eq!(
        (&report["repo"], &report["message"]),
        (&json!("mw/app"), &json!("Fix the site"))
    );
    for agent in &fleet.agents {
        repo.archived(&commit).assert_is(&agent.live("mw/app"));
    }
}

#[test]
fn a_group_that_fails_stops_the_rollout_before_the_next() {
    let (mut fleet, repo) = fleet();
    repo.commit("A scap folder");
    fleet.agents.pop().unwrap().stop().exits(0);
    let ended = fleet
        .deploy(&[
            "--repo",
            "repo",
            "--connect-timeout",
            "2",
            "-D",
            "service_name:",
        ])
        .exits(3);
    let report = deployed(&ended);
    assert_eq!(host(&report, "web3")["outcome"], "unreachable");
    for name in ["web1", "web2"] {
        assert_eq!(host(&report, name)["outcome"], "skipped");
    }
}

#[test]
fn a_deployment_may_be_for_some_hosts_only() {
    let (fleet, repo) = fleet();
    let commit = repo.commit("A scap folder");
    let ended = fleet.deploy(&["--repo", "repo", "-l", "web[1:2]"]).exits(0);
    let report = deployed(&ended.says(&["wave default  2 hosts in 2 groups"]));
    assert_eq!(report["hosts"].as_array().unwrap().len(), 2);
    assert!(!fleet.agents[2].live("mw/app").exists());
    // Without a host list in the folder, of those of the fleet file.
    repo.write(
        "scap/scap.cfg",
        "[global]\ngit_repo: mw/other\ngit_rev: HEAD~1\n",
    );
    repo.commit("No host list");
    let ended = fleet.deploy(&["--repo", "repo", "-l", "!web1"]).exits(0);
    let report = deployed(&ended.says(&[
        "; of the 3 hosts of fleet.toml those that --limit-hosts chooses",
        "2 hosts, fetching ahead",
    ]));
    assert_eq!(report["commit"], commit, "what git_rev names");
    assert!(!fleet.agents[0].live("mw/other").exists());
    let ended = fleet.deploy(&["--repo", "repo", "-l", "db*"]);
    ended.fails(
        2,
        "choose who is deployed to",
        "none of the 3 hosts is chosen",
        "--limit-hosts",
    );
    let ended = fleet.deploy(&["--repo", "repo", "-l", "web[1"]);
    ended.fails_as_misuse(&["--limit-hosts", "`]` was expected"]);
}

#[test]
fn scap_toml_bounds_what_a_site_may_lose_and_asks_a_person() {
    let fleet = Fleet::start(&["web1", "web2", "web3"]);
    let (repo, first) = fleet.scene.repo();
    let toml = "server_groups = ['third', 'rest']\n\
        [group.third]\nhosts = ['web3', 'web1', 'web2']\npercent = 34\n\
        [group.rest]\nhosts = ['web1', 'web2']\nfailure_limit = 1\nfailure_limit_per_site = 0\napproval = true\n\
        [site.north]\nhosts = ['web1']\n[site.south]\nhosts = ['web[2:3]']\n\
        [checks.of_web1]\nshell = true\ncommand = 'case \"$SCAP_FINAL_PATH\" in *web1/*) exit 1;; esac'\nafter = 'promote'\n";
    fleet.deploy(&["--repo", "repo"]).exits(0);
    repo.write("scap/scap.toml", toml);
    repo.commit("Waves, budgets and sites");
    let dry_run = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--repo",
        "repo",
        "--dry-run",
    ];
    fleet
        .scene
        .scap(&dry_run)
        .exits(0)
        .prints(&[
            "wave third  1 hosts  may lose 0\n",
            "wave rest  2 hosts  may lose 1  may lose 0 in site north  may lose 0 in site south  needs approval\n",
        ]);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    wait_for(&fleet, &mut deploy, "approval");
    // One of two may be lost, but none of the only one in the north.
    say(&fleet, &["promote"]).exits(0);
    let ended = deploy.end().exits(4);
    ended.says(&["site north of wave rest", "may lose 0"]);
    fleet.assert_all_run(&repo, &first);

    let text = std::fs::read_to_string(fleet.scene.path("fleet.toml")).unwrap();
    let elsewhere = text.replace("name = 'web3'", "name = 'web3'\nsite = 'west'");
    assert_ne!(text, elsewhere);
    fleet.scene.write("fleet.toml", elsewhere);
    fleet.deploy(&["--repo", "repo"]).fails(
        2,
        "find where hosts stand: scap/scap.toml:13",
        "host web3 is in site \"south\", and in \"west\" by the fleet file fleet.toml",
        "one of them",
    );
}

#[test]
fn what_is_wrong_with_a_folder_is_told_before_anybody_is_contacted() {
    let scene = Scene::new();
    let (repo, _) = scene.repo();
    // The host, as far as the network goes.
    let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let address = host.local_addr().unwrap();
    scene.write(
        "fleet.toml",
        format!("[[host]]\nname = 'web1'\naddress = '{address}'\n"),
    );
    let cfg = "[global]\ndsh_targets: targets\n";
    let common = [
        "deploy",
        "--state",
        "st",
        "--repo",
        "repo",
        "--fleet",
        "fleet.toml",
        "--yes",
    ];
    for (path, content, more, says) in [
        (
            "scap.cfg",
            "dsh_targets: x\n",
            &[][..],
            "scap/scap.cfg:1: a line before any section",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: nowhere\n",
            &[],
            "scap/scap.cfg:2: no host list `nowhere`",
        ),
        (
            "targets",
            "\n",
            &[],
            "scap/scap.cfg:2: `dsh_targets` names scap/targets, which has no host in it",
        ),
        (
            "targets",
            "web1\nweb9\nweb8\n",
            &[],
            "scap/targets:2: host web9 is not in the fleet file fleet.toml, nor are 1 more",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: x, after: lunch}\n",
            &[],
            "scap/checks.yaml:2: `lunch` of check `a` is no stage",
        ),
        ("vars.yaml", "a: {\n", &[], "scap/vars.yaml:1: not YAML"),
        (
            "scap.toml",
            "config_deploy = true\n[config_files.'/etc/app']\ntemplate = 'app.j2'\n",
            &[],
            "render /etc/app: templates/app.j2:2: syntax error",
        ),
        (
            "environments/beta/vars.yaml",
            "a: 1\n",
            &["-e", "bet"],
            "--environment: there is no environment `bet`: scap/environments has beta",
        ),
        (
            "scap.cfg",
            "[global]\nblock_deployments: yes\n",
            &[],
            "scap/scap.cfg:2: `block_deployments` is on",
        ),
    ] {
        repo.write("scap/scap.cfg", cfg);
        repo.write("scap/targets", "web1\n");
        repo.write("scap/templates/app.j2", "# app\n{{ level\n");
        repo.write(format!("scap/{path}"), content);
        repo.commit(path);
        let arguments = [&common[..], more].concat();
        scene.scap(&arguments).exits(2).says(&["error: ", says]);
        std::fs::remove_dir_all(scene.path("repo/scap")).unwrap();
        repo.commit("Without it");
    }
    let ended = scene.scap(&[&common[..], &["--dry-run"]].concat()).exits(0);
    ended.says(&["scap folder: none; all 1 hosts of fleet.toml"]);
    assert!(!scene.path("st/records").exists(), "something was signed");
}
