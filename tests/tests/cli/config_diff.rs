//! What `deploy --dry-run` says of config files: the difference to what is live, and nothing that only hosts know.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::Ended;
use super::rollout::{DRY_RUN, look, wait_for};
use super::scene::Scene;
use super::stages::World;

/// Runs `deploy --dry-run`, which must not write anything.
#[track_caller]
fn dry(scene: &Scene, more: &[&str]) -> Ended {
    let before = look(scene);
    let ended = scene.scap(&[&DRY_RUN[..], more].concat());
    assert_eq!(before, look(scene), "something was written");
    ended
}

/// The files of a plan by name, without what is the same for all.
#[track_caller]
fn files(ended: Ended) -> (Value, Vec<(String, String, String)>) {
    let plan: Value = ended.exits(0).json("scap.dry-run/1");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let files = plan["config"].as_array().unwrap().iter();
    let files = files.map(|file| {
        assert_eq!(file["hosts"], json!(["web1"]));
        (
            text(&file["file"]),
            text(&file["status"]),
            text(&file["diff"]),
        )
    });
    let files = files.collect();
    (plan, files)
}

fn file(name: &str, status: &str, diff: &str) -> (String, String, String) {
    (name.into(), status.into(), diff.into())
}

#[test]
fn a_dry_run_shows_how_config_files_differ_from_what_is_live() {
    let world = World::start(&["web1"]);
    let scene = &world.fleet.scene;
    let app = world.destination().display().to_string();
    let config_files = |more: &str| {
        let app = format!("{app}:\n  template: app.yaml.j2\n");
        world.repo.write("scap/config-files.yaml", app + more);
    };
    let conf = "conf/version:\n  template: version.j2\n";
    world.repo.commit("One");

    // Nothing is live: all is new.
    dry(scene, &[]).exits(0).prints(&[
        "config files: by the state branch here nothing is live",
        &format!("new        {app}\n--- /dev/null\n+++ {app}\n@@ -0,0 +1,2 @@\n+level: warn\n+version: one\n"),
        "new        conf/version\n--- /dev/null\n+++ conf/version\n@@ -0,0 +1 @@\n+rendered warn\n\\ No newline at end of file\n",
        "nothing was written, and no host was contacted",
    ]);
    let (plan, _) = files(dry(scene, &["--json"]));
    assert_eq!(plan["config_live"], Value::Null);
    world.fleet.deploy(&["--repo", "repo"]).exits(0);
    assert_eq!(world.config(), "level: warn\nversion: one");

    // Nothing changed.
    let unchanged = [
        file(&app, "unchanged", ""),
        file("conf/version", "unchanged", ""),
    ];
    let (plan, same) = files(dry(scene, &["--json"]));
    assert_eq!(same, unchanged);
    assert_eq!(plan["config_live"]["sequence"], 1);
    dry(scene, &[])
        .exits(0)
        .prints(&[" \"One\"\nunchanged  ", "config files, against #1 "]);

    // Another template, and one that is not used.
    world.version("two\u{1b}[31m");
    world.repo.write("scap/templates/other.j2", "other");
    world.repo.commit("Two");
    let changed = format!(
        "--- {app}\n+++ {app}\n@@ -1,2 +1,2 @@\n level: warn\n-version: one\n\\ No newline at end of file\n\
         +version: two\u{1b}[31m\n\\ No newline at end of file\n"
    );
    let (_, found) = files(dry(scene, &["--json"]));
    assert_eq!(
        found,
        [file(&app, "changed", &changed), unchanged[1].clone()]
    );
    dry(scene, &[]).exits(0).prints(&[
        "+version: two\\u{1b}[31m\n\\ No newline",
        "unchanged  conf/version\n",
    ]);

    // Another variable, a file more, and one fewer.
    world.repo.write("scap/vars.yaml", "level: info\n");
    config_files("conf/more:\n  template: other.j2\n");
    world.version("one");
    world.repo.commit("Three");
    let (_, found) = files(dry(scene, &["--json"]));
    assert_eq!(
        found,
        [
            file(
                &app,
                "changed",
                &format!(
                    "--- {app}\n+++ {app}\n@@ -1,2 +1,2 @@\n-level: warn\n+level: info\n version: one\n\\ No newline at end of file\n"
                )
            ),
            file(
                "conf/more",
                "new",
                "--- /dev/null\n+++ conf/more\n@@ -0,0 +1 @@\n+other\n\\ No newline at end of file\n"
            ),
            file(
                "conf/version",
                "removed",
                "--- conf/version\n+++ /dev/null\n@@ -1 +0,0 @@\n-rendered warn\n\\ No newline at end of file\n"
            ),
        ]
    );

    // It is by what was released, and not by what the branch that is checked out had.
    config_files(conf);
    world.repo.write("scap/vars.yaml", "level: warn\n");
    world
        .deploy("Four", &["-D", "config_deploy:false"])
        .exits(0);
    let (_, found) = files(dry(scene, &["--json"]));
    assert!(
        found.iter().all(|(_, status, _)| status == "new"),
        "{found:?}"
    );
    let back = [
        "rollback",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--repo",
        "repo",
        "--dry-run",
    ];
    let before = look(scene);
    let ended = scene.scap(&back).exits(0);
    assert_eq!(before, look(scene), "something was written");
    ended.prints(&["on each host: 2 config files", "new        conf/version"]);
}

#[test]
fn what_is_live_is_found_without_the_chunks_and_said_where_it_cannot_be() {
    let world = World::start(&["web1"]);
    let scene = &world.fleet.scene;
    world.deploy("One", &[]).exits(0);
    world.repo.write("scap/vars.yaml", "level: info\n");
    world.repo.commit("Two");
    let (_, with_chunks) = files(dry(scene, &["--json"]));
    assert_eq!(with_chunks[1].1, "changed");
    std::fs::remove_dir_all(scene.path("st/store")).unwrap();
    let (plan, by_commit) = files(dry(scene, &["--json"]));
    assert_eq!(by_commit, with_chunks);
    assert_eq!(plan["config_live"]["problem"], Value::Null);
    // Its folder is not what was released: it was with other options.
    let other = ["-D", "cache_revs:3", "--json"];
    let (plan, unknown) = files(dry(scene, &other));
    let problem = plan["config_live"]["problem"].as_str().unwrap();
    assert!(problem.contains("chunk store"), "{problem}");
    assert!(unknown.iter().all(|(_, status, _)| status == "unknown"));
    let ended = dry(scene, &other[..2]).exits(0);
    ended.prints(&[
        "its config files are not known here, so nothing is compared: ",
        "unknown    conf/version\n",
    ]);

    // One that was not finalized is named; that of its hosts it is not.
    let more = ["--repo", "repo", "--soak", "600"];
    let mut second = world.fleet.start_deploy(&more);
    wait_for(&world.fleet, &mut second, "soak");
    second.signal(Signal::KILL);
    second.end();
    let ended = dry(scene, &[]).exits(0);
    ended.prints(&[
        "config files, against #1 ",
        "  #2 ",
        " came after it and is running: what it changed",
    ]);

    // What nobody signed who may is not believed.
    std::fs::write(scene.path("st/allowed_signers"), "").unwrap();
    let (plan, unknown) = files(dry(scene, &["--json"]));
    let problem = plan["config_live"]["problem"].as_str().unwrap();
    assert!(
        problem.contains("signatures on the state branch do not hold"),
        "{problem}"
    );
    assert!(unknown.iter().all(|(_, status, _)| status == "unknown"));
}

#[test]
fn variables_of_hosts_are_named_and_never_made_up() {
    let world = World::start(&["web1"]);
    let scene = &world.fleet.scene;
    world.repo.write(
        "scap/config-files.yaml",
        "conf/a:\n  template: a.j2\n  remote_vars: /etc/app/vars.yaml\nconf/b:\n  template: b.j2\n  remote_vars: /etc/app/vars.yaml\n",
    );
    world.repo.write(
        "scap/templates/a.j2",
        "{{ level }} {{ db.host }}:{{ port }}\n",
    );
    world.repo.write(
        "scap/templates/b.j2",
        "\n{% for x in servers %}{{ x }}{% endfor %}",
    );
    world.repo.commit("One");
    dry(scene, &[]).exits(0).prints(&[
        "new        conf/a\n  each host fills in ⟦db⟧ ⟦port⟧ from its /etc/app/vars.yaml\n  where the template decides",
        "  what a host has in /etc/app/vars.yaml wins over the variables here\n--- /dev/null\n",
        "\n+warn ⟦db.host⟧:⟦port⟧\n",
        "new        conf/b\n  each host fills in ⟦servers⟧ from its /etc/app/vars.yaml\n",
        "not shown, since only hosts can render it: render conf/b: templates/b.j2:2: ",
    ]);
    let (plan, _) = files(dry(scene, &["--json"]));
    assert_eq!(
        plan["config"][0]["host_vars"],
        json!({"file": "/etc/app/vars.yaml", "names": ["db", "port"]})
    );
    let problem = plan["config"][1]["problem"].as_str().unwrap();
    assert!(problem.contains("templates/b.j2:2: "), "{problem}");
}

#[test]
fn a_template_that_no_host_can_render_is_an_error_with_file_and_line() {
    let world = World::start(&["web1"]);
    let scene = &world.fleet.scene;
    let app = world.destination().display().to_string();
    for (template, says) in [
        ("level\n{{ level", "templates/app.yaml.j2:2: "),
        (
            "{{ level.x.y }}",
            "templates/app.yaml.j2:1: undefined value",
        ),
        (
            "{{ level | none }}",
            "templates/app.yaml.j2:1: unknown filter",
        ),
        ("{% include 'gone' %}", "templates/app.yaml.j2:1: "),
    ] {
        world.repo.write("scap/templates/app.yaml.j2", template);
        world.repo.commit(template);
        let ended = dry(scene, &[]).exits(2);
        let doing = format!("error: tell what hosts would render: render {app}: {says}");
        let ended = ended.says(&[&doing, "hint: each host would fail with this"]);
        assert_eq!(ended.stdout, "", "{template}");
    }
}

#[test]
fn of_a_directory_what_is_live_is_known_too() {
    let world = World::start(&["web1"]);
    let scene = &world.fleet.scene;
    let cfg = "[global]\ngit_repo: mw/app\nconfig_deploy: True\n";
    scene.write("site/scap/scap.cfg", cfg);
    scene.write("site/scap/config-files.yaml", "a:\n  template: a.j2\n");
    scene.write("site/scap/templates/a.j2", "one");
    let dry = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--dir",
        "site",
        "--dry-run",
        "--json",
    ];
    let (plan, new) = files(scene.scap(&dry));
    assert_eq!(
        (&plan["config_live"], new[0].1.as_str()),
        (&Value::Null, "new")
    );
    assert!(
        !scene.path("st/state.git").exists(),
        "something was written"
    );
    world.fleet.deploy(&["--dir", "site"]).exits(0);
    scene.write("site/scap/templates/a.j2", "two");
    let before = look(scene);
    let (_, changed) = files(scene.scap(&dry));
    assert_eq!(before, look(scene), "something was written");
    let hunk =
        "@@ -1 +1 @@\n-one\n\\ No newline at end of file\n+two\n\\ No newline at end of file\n";
    assert_eq!(
        changed,
        [file("a", "changed", &format!("--- a\n+++ a\n{hunk}"))]
    );
}
