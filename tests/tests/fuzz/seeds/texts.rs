//! Seeds of the formats that people write.

use std::path::Path;

use scap_coordinator::state::{BranchRecord, Document, HostGroup, Hosts};
use scap_proto::release::Environment;

use super::Seeds;

pub fn texts(seeds: &mut Seeds) {
    examples(seeds);
    folders(seeds);
    yaml(seeds);
    fleets(seeds);
    agents(seeds);
    states(seeds);
    ids(seeds);
}

/// The files that are shipped.
fn examples(seeds: &mut Seeds) {
    for (target, file) in [
        ("scap_cfg", "scap3-folder/scap.cfg"),
        ("scap_toml", "scap.toml"),
        ("checks", "scap3-folder/checks.yaml"),
        ("config_files", "scap3-folder/config-files.yaml"),
        ("host_list", "scap3-folder/targets"),
        ("yaml", "scap3-folder/vars.yaml"),
        ("fleet", "fleet.toml"),
        ("agent_toml", "agent.toml"),
    ] {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy-examples");
        let path = examples.join(file);
        let text = std::fs::read(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        seeds.add(target, "example", text);
    }
}

fn folders(seeds: &mut Seeds) {
    for (name, text) in [
        (
            "sections",
            "[DEFAULT]\na: 1\n[global]\ngit_repo = mw/x\n  and more\nserver_groups: a, b\na_dsh_targets: targets\n\
            b_dsh_targets: canaries\na_group_size: 1\nb_failure_limit: 10%\n[org]\nbatch_size: 5\n",
        ),
        (
            "share",
            "[global]\nserver_groups: a,default\na_percent: 50\n",
        ),
        (
            "interpolated",
            "[global]\ngit_repo: %(x)s\nx: %(git_repo)s\n",
        ),
        (
            "limits",
            "[global]\ngroup_size: 0\nfailure_limit: 101%\ncache_revs: 99999999999\n",
        ),
        ("odd", "\u{feff}[global\n= x\n[]\ngit_repo\n"),
    ] {
        seeds.add("scap_cfg", name, text);
    }
    for (name, text) in [
        (
            "tables",
            "git_repo = \"a/b\"\n[group.x]\nhosts = [\"web1\"]\n[checks.a]\ncommand = \"true\"\nafter = \"fetch\"\n\
            [config_files.\"/etc/a\"]\ntemplate = \"app.j2\"\n[vars]\nn = [1, 1.5, true, {a = 1}]\n[site.s]\nhosts = [\"web*\"]\n",
        ),
        (
            "dates",
            "[vars]\nd = 1979-05-27T07:32:00Z\nn = nan\ni = -inf\n",
        ),
        ("deep", "[vars]\na = [[[[[[[[[[1]]]]]]]]]]\nb.c.d.e = 1\n"),
    ] {
        seeds.add("scap_toml", name, text);
    }
    for (name, text) in [
        (
            "all",
            "checks:\n  ping: {type: nrpe, command: check_ping, after: promote, group: canary, timeout: 60, every: 20}\n  \
            venv: {type: script, command: 'venv.sh \"a b\"', after: fetch}\n  depool: {command: depool --all, before: promote}\n  \
            pipe: {command: 'a | b', shell: yes, stage: restart_service, timeout: 0.5, every: 0.1}\n",
        ),
        ("nothing", "checks:\n"),
        (
            "timeouts",
            "checks: {a: {command: x, after: fetch, timeout: -1}, b: {command: x, after: fetch, timeout: 1e300}}\n",
        ),
        (
            "paths",
            "checks: {a: {type: script, command: ../../bin/sh, after: fetch}}\n",
        ),
    ] {
        seeds.add("checks", name, text);
    }
    for (name, text) in [
        (
            "all",
            "/etc/mw/app.yaml: {template: app.j2, remote_vars: /etc/mw/vars.yaml, output_format: yaml}\n\
            etc/local.py: {template: app.j2, erb_syntax: true}\n",
        ),
        (
            "paths",
            "/etc/../shadow: {template: ../scap.cfg}\n//a: {template: /app.j2}\n",
        ),
        ("escape", "\"/etc/\\e[31m\": {template: \"app\\0.j2\"}\n"),
    ] {
        seeds.add("config_files", name, text);
    }
    seeds.add(
        "host_list",
        "comments",
        "# all\nweb1 # one\n\n web2\t\nweb2\n-x\n",
    );
    seeds.add("host_list", "bytes", b"web1\r\nw\xffb\n".to_vec());
}

fn yaml(seeds: &mut Seeds) {
    let bomb = "a: &a [1,1,1,1]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d]\n\
        f: &f [*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f]\nh: [*g,*g,*g,*g]\n";
    let deep = "[".repeat(70);
    let text_bomb = format!("a: &a {}\nb: [{}]\n", "x".repeat(2000), "*a,".repeat(2500));
    for (name, text) in [
        (
            "scalars",
            "a: yes\nb: 017\nc: 1_000.5\nd: 190:20:30\ne: ~\nf: .inf\ng: 0x1F\nh: 2001-01-01\ni: '1'\n1: one\n",
        ),
        (
            "merge",
            "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: [*a, {z: 1}]}\n",
        ),
        (
            "block",
            "a: |\n  line\n  more\nb: >-\n  folded\n  too\nc:\n- 1\n- - 2\n  - {d: [3]}\n",
        ),
        ("words", "a \"b c\" 'd e' f\\ g\n"),
        ("bomb", bomb),
        ("text-bomb", &text_bomb),
        ("deep", &deep),
        ("itself", "a: &a [*a]\n"),
        (
            "tags",
            "a: !!python/object/apply:os.system ['x']\nb: !!str 1\n",
        ),
        ("documents", "a: 1\n---\nb: 2\n...\n"),
    ] {
        seeds.add("yaml", name, text);
    }
}

fn fleets(seeds: &mut Seeds) {
    for (name, text) in [
        (
            "sites",
            "[seed]\nrate_mbit = 10\nsite = \"s\"\n[[host]]\nname = \"a\"\naddress = [\"10.0.0.1:1\", \"h.example:2\"]\nsite = \"n\"\n\
            rack = \"r\"\nrate_mbit = 1.5\n[[host]]\nname = \"b\"\naddress = \"[::1]:7\"\nvia = [\"a\"]\n[[site]]\nname = \"n\"\nborder_mbit = 5\n\
            delay_ms = 10\n[rollout]\nbudget = \"10%\"\n[[rollout.wave]]\nname = \"x\"\npercent = 50\n",
        ),
        (
            "cycle",
            "[[host]]\nname = \"a\"\naddress = \"a:1\"\nvia = [\"b\"]\n[[host]]\nname = \"b\"\naddress = \"b:1\"\nvia = [\"a\"]\n",
        ),
        (
            "rates",
            "[seed]\nrate_mbit = nan\n[[host]]\nname = \"a\"\naddress = \"a:1\"\nrate_mbit = 1e-300\n",
        ),
        (
            "waves",
            "[[host]]\nname = \"a\"\naddress = \"a:1\"\ngroups = [\"canary\"]\n[rollout]\nsoak = 18446744073709551615\ndead_man = 600\n\
            [[rollout.wave]]\nname = \"c\"\ngroup = \"canary\"\n[[rollout.wave]]\nname = \"all\"\ngroup_size = 1\napproval = true\n",
        ),
        (
            "twice",
            "[[host]]\nname = \"a\"\naddress = \"a:1\"\n[[host]]\nname = \"a\"\naddress = \"b:1\"\n",
        ),
    ] {
        seeds.add("fleet", name, text);
    }
}

fn agents(seeds: &mut Seeds) {
    for (name, text) in [
        (
            "limits",
            "peers = [\"web2=10.0.0.3:7227\"]\ncatch-up = \"fetch\"\ncatch-up-minutes = 15\n[limits]\nupload-mbit = 50\n\
            download-mbit = \"none\"\n[[limits.at]]\nfrom = \"22:00\"\nto = \"06:00\"\nupload-mbit = 0.1\n",
        ),
        (
            "extremes",
            "catch-up-minutes = 4294967295\n[services]\ntimeout-seconds = 0\nrestart = []\n[limits]\nupload-mbit = 1e300\n",
        ),
        ("times", "[[limits.at]]\nfrom = \"24:00\"\nto = \"-1:99\"\n"),
    ] {
        seeds.add("agent_toml", name, text);
    }
}

fn states(seeds: &mut Seeds) {
    let repo = "mw/config".parse().expect("a plain name");
    let empty = BranchRecord::new(repo, Environment::default());
    seeds.add("state", "record-empty", empty.to_json());
    let groups = vec![HostGroup {
        outcome: "failed".into(),
        reason: "disk \u{1b}[31m full".into(),
        code: None,
        hosts: vec!["web1".parse().expect("a plain name")],
    }];
    seeds.add("state", "hosts", Hosts { groups }.to_json());
    let digest = "a275be35e70ecf2f8f90b8413fdea6806936fd022444d0fc6c362df06102e41a";
    let rollout = format!(
        r#"{{"release": "{digest}", "sequence": 7, "snapshot": "{digest}", "descriptor_length": 300,
        "commit": "0102030405060708090a0b0c0d0e0f1011121314", "subject": "Raise limit", "rollout": "r-1", "by": "alice@deploy1",
        "started": "2026-01-02T03:04:05Z", "ended": null, "outcome": "running", "waves": []}}"#
    );
    let record = format!(
        r#"{{"schema": "scap.record/1", "repo": "mw/config", "environment": "production", "latest": {rollout}, "stable": null,
        "broken_lock": {{"holder": "bob@x", "rollout": "r-2", "by": "a@y", "reason": "gone", "at": "2026-01-02T03:04:05Z"}}}}"#
    );
    seeds.add("state", "record-of-a-rollout", record);
    let lock = r#"{"schema": "scap.lock/1", "holder": "alice@deploy1", "rollout": "r-1", "reason": "x", "since": "2026-01-02T03:04:05Z",
        "until": "2026-01-02T03:19:05Z", "process": {"boot": "b", "namespace": "n", "pid": 7, "started": 9}}"#;
    seeds.add("state", "lock", lock);
    seeds.add("state", "later", r#"{"schema": "scap.record/4294967296"}"#);
    seeds.add("state", "deep", "[".repeat(200));
    seeds.add("state", "another", r#"{"schema": "scap.\u001b[31m/1"}"#);
}

fn ids(seeds: &mut Seeds) {
    for (name, text) in [
        (
            "digest",
            "a275be35e70ecf2f8f90b8413fdea6806936fd022444d0fc6c362df06102e41a",
        ),
        (
            "upper",
            "A275BE35E70ECF2F8F90B8413FDEA6806936FD022444D0FC6C362DF06102E41A",
        ),
        ("git", "0102030405060708090a0b0c0d0e0f1011121314"),
        ("node", "web1.example.org"),
        ("repo", "mw/config"),
        ("cache", "mw/config-cache"),
        ("path", "/etc/mw/app.yaml"),
        ("dots", "/etc/../shadow"),
        ("role", "coordinator"),
        ("reason", "disk-full"),
        ("dash", "-rf"),
    ] {
        seeds.add("ids", name, text);
    }
}
