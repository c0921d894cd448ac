//! Whole folders, as scap3's documentation describes them.

mod conf;
mod waves;

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use scap_proto::{
    content::EncodedChunk,
    id::ChunkId,
    release::host_config::{
        Check, Command, Destination, HostPath, HostStage, Moment, OutputFormat, ServiceAction,
    },
};

use super::*;
use crate::snapshot::{ChunkSink, SinkError};

fn folder<'a>() -> BTreeMap<&'a str, &'a str> {
    BTreeMap::from([
        (
            "scap.cfg",
            "[global]\ngit_repo: mw/service\nserver_groups: canary, default\n\
            canary_dsh_targets: canaries\ndsh_targets: targets\ngroup_size: 2\nfailure_limit: 34%\n\
            canary_failure_limit: 0\nconfig_deploy: True\nservice_name: mw=reload, cron=restart:disable-secondary\n\
            service_port: 8080\n[beta.example.org]\nenvironment: beta\n",
        ),
        ("canaries", "# first\nweb2\n"),
        ("targets", "web1 # old\nweb2\nweb3\n\nweb4\nweb4\n"),
        (
            "checks.yaml",
            "checks:\n  ping: {type: nrpe, command: check_ping, after: promote, group: canary, timeout: 60, every: 20}\n  \
            venv: {type: script, command: 'venv.sh \"a b\"', after: fetch}\n  \
            depool: {command: depool --all, before: promote}\n  \
            pipe: {command: 'a | b', shell: yes, stage: restart_service, timeout: 0.5, every: 0.1}\n",
        ),
        (
            "config-files.yaml",
            "/etc/mw/app.yaml: {template: app.j2, remote_vars: /etc/mw/vars.yaml}\n\
            etc/local.py: {template: local.j2, erb_syntax: true}\n",
        ),
        ("vars.yaml", "port: 8080\nflags: {debug: no}\n"),
        ("templates/app.j2", "port: {{ port }}\n"),
        ("templates/local.j2", "<%= port %>\n"),
        ("scripts/venv.sh", "#!/bin/sh\n"),
        ("environments/beta/targets", "beta1\n"),
        (
            "environments/beta/scap.cfg",
            "[global]\nserver_groups: default\n",
        ),
        (
            "environments/beta/checks.yaml",
            "checks:\n  depool:\n  venv: {}\n  pipe: {command: x, after: promote}\n  new: {command: y, before: fetch}\n",
        ),
        (
            "environments/beta/vars.yaml",
            "flags: {debug: yes}\nextra: 1\n",
        ),
        ("environments/beta/templates/app.j2", "beta: {{ port }}\n"),
    ])
}

fn found(files: &BTreeMap<&str, &str>) -> Found {
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, content)| (*path, *content))
        .collect();
    Found {
        place: Place::Named("scap".into()),
        files: Files::of(&files),
        notices: Vec::new(),
    }
}

fn nothing_outside(_: &Path) -> Result<Option<Vec<u8>>, ScapError> {
    Ok(None)
}

fn read(files: &BTreeMap<&str, &str>, overrides: &Overrides) -> Result<Scap, ScapError> {
    Scap::read(&found(files), overrides, &nothing_outside)
}

fn in_environment(name: &str) -> Overrides {
    Overrides {
        environment: Some(name.parse().unwrap()),
        ..Overrides::default()
    }
}

/// The names of the hosts of each group, by sub-groups.
fn hosts_of(scap: &Scap) -> Vec<(String, Vec<Vec<String>>)> {
    let groups = scap.groups.as_ref().unwrap().iter().map(|group| {
        let names = |targets: &[Target]| targets.iter().map(|it| it.host.to_string()).collect();
        (group.name.clone(), group.sub_groups().map(names).collect())
    });
    groups.collect()
}

#[test]
fn a_folder_says_who_is_deployed_to_in_which_order() {
    let scap = read(&folder(), &Overrides::default()).unwrap();
    assert_eq!(scap.repo.as_ref().unwrap().as_str(), "mw/service");
    assert_eq!(scap.environment, None);
    let strings = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        hosts_of(&scap),
        [
            ("canary".to_owned(), vec![strings(&["web2"])]),
            (
                "default".to_owned(),
                vec![strings(&["web1", "web3"]), strings(&["web4"])]
            ),
        ]
    );
    let groups = scap.groups.unwrap();
    assert_eq!((groups[0].failures_max(), groups[1].failures_max()), (0, 1));
    assert_eq!(groups[1].targets[2].at.to_string(), "scap/targets:5");
    let selection = "web[2:3]".parse().unwrap();
    let chosen = select(&groups, &selection).unwrap();
    assert_eq!(
        chosen
            .iter()
            .map(|group| group.targets.len())
            .collect::<Vec<_>>(),
        [1, 1]
    );
    // 34 % of one host is none.
    assert_eq!(chosen[1].failures_max(), 0);
    let nobody = select(&groups, &"db*".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(nobody, "--limit-hosts: none of the 4 hosts is chosen");
}

#[test]
fn a_folder_says_what_hosts_do() {
    let scap = read(&folder(), &Overrides::default()).unwrap();
    assert_eq!(scap.notices, []);
    let HostConfig {
        config_files,
        checks,
        groups,
        services,
        vars,
        ..
    } = &scap.hosts;
    assert_eq!(vars, r#"{"port":8080,"flags":{"debug":false}}"#);
    assert_eq!(groups.len(), 1);
    assert_eq!(
        (groups[0].name.as_str(), groups[0].hosts[0].as_str()),
        ("canary", "web2")
    );
    let path = |path: &str| HostPath::new(path).unwrap();
    let file = &config_files[0];
    assert_eq!(
        file.destination,
        Destination::OnHost(path("/etc/mw/app.yaml"))
    );
    assert_eq!(
        (file.format, &file.remote_vars),
        (OutputFormat::Yaml, &Some(path("/etc/mw/vars.yaml")))
    );
    assert_eq!(
        config_files[1].destination,
        Destination::InRelease(RelPath::new("etc/local.py").unwrap())
    );
    assert!(config_files[1].has_erb_syntax && config_files[1].format == OutputFormat::Python);
    let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["ping", "venv", "depool", "pipe"]);
    let script = Command::Script {
        path: RelPath::new("venv.sh").unwrap(),
        arguments: vec!["a b".into()],
    };
    let commands: Vec<&Command> = checks.iter().map(|check| &check.command).collect();
    let program = Command::Program(vec!["depool".into(), "--all".into()]);
    assert_eq!(
        commands,
        [
            &Command::Nrpe("check_ping".into()),
            &script,
            &program,
            &Command::Shell("a | b".into())
        ]
    );
    // No more often than each second.
    let repeats: Vec<_> = scap.hosts.repeats().unwrap().into_iter().collect();
    let millis = |millis| NonZeroU32::new(millis).unwrap();
    let expected = [("ping", 20_000), ("pipe", 1000)];
    let expected = expected.map(|(name, every)| (name.to_owned(), millis(every)));
    assert_eq!(repeats, expected);
    let when: Vec<_> = checks
        .iter()
        .map(|check: &Check| (check.moment, check.stage, check.timeout_millis.get()))
        .collect();
    assert_eq!(
        when,
        [
            (Moment::After, HostStage::Promote, 60_000),
            (Moment::After, HostStage::Fetch, 30_000),
            (Moment::Before, HostStage::Promote, 30_000),
            (Moment::After, HostStage::HandleService, 500),
        ]
    );
    assert_eq!(
        (services.port, services.port_timeout_millis.get()),
        (Some(8080), 120_000)
    );
    let units: Vec<_> = services
        .units
        .iter()
        .map(|unit| {
            (
                unit.name.as_str(),
                unit.action,
                unit.is_disabled_on_secondary,
            )
        })
        .collect();
    assert_eq!(
        units,
        [
            ("mw", ServiceAction::Reload, false),
            ("cron", ServiceAction::Restart, true)
        ]
    );
}

#[test]
fn an_environment_shadows_files_and_merges_checks_and_vars() {
    for overrides in [
        in_environment("beta"),
        // Or as the section of the machine says.
        Overrides {
            host_name: HostName::Said("d1.beta.example.org".into()),
            ..Overrides::default()
        },
    ] {
        let scap = read(&folder(), &overrides).unwrap();
        assert_eq!(scap.hosts.environment.as_str(), "beta");
        assert_eq!(
            hosts_of(&scap),
            [("default".to_owned(), vec![vec!["beta1".to_owned()]])]
        );
        assert_eq!(
            scap.hosts.vars,
            r#"{"port":8080,"flags":{"debug":true},"extra":1}"#
        );
        // What has no body is cancelled, what is said again keeps its place, and the check of a group that is not there is told.
        let names: Vec<&str> = scap
            .hosts
            .checks
            .iter()
            .map(|check| check.name.as_str())
            .collect();
        assert_eq!(names, ["pipe", "new"]);
        let notes: Vec<String> = scap.notices.iter().map(Notice::to_string).collect();
        assert_eq!(
            notes,
            [
                "scap/scap.cfg:4: `canary_dsh_targets` is not acted on: `server_groups` has no `canary`",
                "scap/scap.cfg:8: `canary_failure_limit` is not acted on: `server_groups` has no `canary`",
                "scap/checks.yaml:2: check `ping` never runs: there is no server group `canary`",
            ]
        );
        let template = &scap.attachments[&RelPath::new("templates/app.j2").unwrap()];
        assert_eq!(&*template.bytes, b"beta: {{ port }}\n");
    }
}

#[test]
fn host_lists_may_be_elsewhere_on_the_machine() {
    let outside = |path: &Path| {
        Ok(match path.to_str() {
            Some("/etc/dsh/group/all" | "/srv/lists/one") => Some(b"web1\n".to_vec()),
            Some("/etc/scap.cfg") => {
                Some(b"[global]\ngroup_size: 7\ngit_server: deploy1\n".to_vec())
            }
            _ => None,
        })
    };
    for list in ["all", "/srv/lists/one"] {
        let cfg = format!("[global]\ndsh_targets: {list}\n");
        let scap = Scap::read(
            &found(&BTreeMap::from([("scap.cfg", cfg.as_str())])),
            &Overrides::default(),
            &outside,
        )
        .unwrap();
        assert_eq!(scap.groups.unwrap()[0].group_size.unwrap().get(), 7);
        assert!(scap.notices[0].at.is_of_machine());
    }
    // With no folder, the command line still counts.
    let overrides = Overrides {
        defines: vec![("git_repo".into(), "a/b".into())],
        ..Overrides::default()
    };
    let scap = Scap::read(&Found::nothing(), &overrides, &outside).unwrap();
    assert_eq!((scap.repo.unwrap().as_str(), scap.groups), ("a/b", None));
}

#[test]
fn of_a_repo_without_a_folder_the_machine_says_only_whether_it_may_be_deployed() {
    let machine = "[global]\ngit_repo: a/b\ndsh_targets: all\nenvironment: beta\nservice_name: x\ngit_rev: v1\n\
                   [example.org]\nblock_deployments: yes\nnonsense: 1\n[net]\ngroup_size: 0\n";
    let outside = |path: &Path| {
        let is_it = path == Path::new("/etc/scap.cfg");
        Ok(is_it.then(|| machine.as_bytes().to_vec()))
    };
    let on = |name: &str| Overrides {
        host_name: HostName::Said(name.into()),
        ..Overrides::default()
    };
    let read = |name: &str| Scap::read(&Found::nothing(), &on(name), &outside).unwrap();
    let scap = read("d1.example.net");
    assert_eq!((scap.repo, scap.groups, scap.rev), (None, None, None));
    assert_eq!((scap.environment, scap.blocked), (None, None));
    assert!(scap.hosts.asks_nothing() && scap.notices.is_empty());
    let blocked = read("d1.example.org").blocked.unwrap();
    assert_eq!(blocked.to_string(), "/etc/scap.cfg:8");
    // With a folder that has no environments, the one that the machine has is as good as any.
    let files = BTreeMap::from([("scap.cfg", "[global]\ndsh_targets:\ndefault_hosts: web1\n")]);
    let scap = Scap::read(&found(&files), &on("d1.example.com"), &outside).unwrap();
    assert_eq!(scap.environment.unwrap().as_str(), "beta");
}

#[test]
fn a_group_that_is_left_out_is_told_with_who_says_so() {
    let mut files = folder();
    files.insert(
        "scap.cfg",
        "[global]\nserver_groups: first, blank, default, again\nfirst_hosts: web1, web2, web3, web4\n\
         blank_dsh_targets:\ndsh_targets: targets\nagain_hosts: web1\n",
    );
    files.remove("checks.yaml");
    files.remove("config-files.yaml");
    let scap = read(&files, &Overrides::default()).unwrap();
    assert_eq!(scap.groups.unwrap().len(), 1);
    let notes: Vec<String> = scap.notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        notes,
        [
            "scap/scap.cfg:4: group `blank` names no host, and is left out",
            "scap/scap.cfg:5: group `default` has no host but 5 of groups before it, and is left out",
            "scap/scap.cfg:6: group `again` has no host but one of groups before it, and is left out",
        ]
    );
}

#[test]
fn scap_toml_says_the_same_and_more() {
    let toml = "git_repo = 'mw/service'\nserver_groups = ['canary', 'default']\nconfig_deploy = true\n\
        service_name = ['mw=reload', 'cron=restart:disable-secondary']\nservice_port = 8080\ngroup_size = 2\nfailure_limit = '34%'\n\
        [group.canary]\nhosts = ['web2']\nfailure_limit = 0\nsoak = 30\n\
        [group.default]\nhosts = ['web1', 'web2', 'web3', 'web4']\n\
        [vars]\nport = 8080\nflags = { debug = false }\n\
        [config_files.'/etc/mw/app.yaml']\ntemplate = 'app.j2'\nremote_vars = '/etc/mw/vars.yaml'\n\
        [config_files.'etc/local.py']\ntemplate = 'local.j2'\nerb_syntax = true\n\
        [checks.ping]\ntype = 'nrpe'\ncommand = 'check_ping'\nafter = 'promote'\ngroup = 'canary'\ntimeout = 60\nevery = 20\n\
        [checks.venv]\ntype = 'script'\ncommand = 'venv.sh \"a b\"'\nafter = 'fetch'\n\
        [checks.depool]\ncommand = 'depool --all'\nbefore = 'promote'\n\
        [checks.pipe]\ncommand = 'a | b'\nshell = true\nstage = 'restart_service'\ntimeout = 0.5\nevery = 0.1\n";
    let mut native = folder();
    for path in [
        "scap.cfg",
        "canaries",
        "targets",
        "checks.yaml",
        "config-files.yaml",
        "vars.yaml",
    ] {
        native.remove(path);
    }
    native.retain(|path, _| !path.starts_with("environments"));
    native.insert("scap.toml", toml);
    let (native, other) = (
        read(&native, &Overrides::default()).unwrap(),
        read(&folder(), &Overrides::default()).unwrap(),
    );
    assert_eq!(native.hosts, other.hosts);
    assert_eq!(hosts_of(&native), hosts_of(&other));
    assert_eq!(native.groups.unwrap()[0].soak.as_secs(), 30);

    // On top of what scap.cfg says.
    let mut both = folder();
    both.insert("scap.toml", "cache_revs = 2\n[checks.venv]\n");
    let both = read(&both, &Overrides::default()).unwrap();
    assert_eq!(
        (both.hosts.cache_revs.get(), both.hosts.checks.len()),
        (2, 3)
    );
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    for (path, content, says) in [
        (
            "scap.cfg",
            "git_repo: a\n",
            "scap/scap.cfg:1: a line before any section",
        ),
        (
            "scap.cfg",
            "[global]\ngit_repo: ../a\n",
            "scap/scap.cfg:2: `git_repo`: `../a` is not a name of a repo",
        ),
        (
            "scap.cfg",
            "[global]\nserver_groups: a\n",
            "scap/scap.cfg:2: server group `a` needs `a_dsh_targets`",
        ),
        (
            "scap.cfg",
            "[global]\nserver_groups: a\na_dsh_target: x\n",
            "; did you mean `a_dsh_target`?",
        ),
        (
            "scap.cfg",
            "[global]\nserver_groups: a, a\na_dsh_targets: targets\n",
            "scap/scap.cfg:2: `server_groups` names `a` twice",
        ),
        (
            "scap.cfg",
            "[global]\nserver_groups: a\na_dsh_targets:\n",
            "scap/scap.cfg:2: no server group has a host",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: nowhere\n",
            "scap/scap.cfg:2: no host list `nowhere`: looked for scap/nowhere, /etc/dsh/group/nowhere",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: a\u{1b}[31m\n",
            r"looked for scap/a\u{1b}[31m, /etc/dsh/group/a\u{1b}[31m",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: ../../x\n",
            "scap/scap.cfg:2: no host list",
        ),
        (
            "scap.cfg",
            "[global]\ndefault_hosts: a\ndsh_targets: targets\n",
            "scap/scap.cfg:2: both `default_hosts` and `dsh_targets` (scap/scap.cfg:3)",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: targets\ngroup_size: 0\n",
            "scap/scap.cfg:3: `group_size` is `0`; a whole number from 1",
        ),
        (
            "scap.cfg",
            "[global]\ndsh_targets: targets\nfailure_limit: 101%\n",
            "scap/scap.cfg:3: `failure_limit` is `101%`; a number of hosts, or 0% to 100%",
        ),
        (
            "scap.cfg",
            "[global]\nenvironment: prod\n",
            "scap/scap.cfg:2: there is no environment `prod`: scap/environments has beta",
        ),
        (
            "scap.cfg",
            "[global]\nconfig_deploy: perhaps\n",
            "scap/scap.cfg:2: `config_deploy` is `perhaps`; yes, true",
        ),
        (
            "scap.cfg",
            "[global]\nservice_port: 0\n",
            "scap/scap.cfg:2: `service_port` is `0`; a port from 1 to 65535",
        ),
        (
            "scap.cfg",
            "[global]\nservice_name: a=stop\n",
            "scap/scap.cfg:2: `a=stop` of `service_name`",
        ),
        (
            "scap.cfg",
            "[global]\nservice_name: a;reboot\n",
            "scap/scap.cfg:2: `a;reboot` of `service_name`",
        ),
        (
            "scap.cfg",
            "[global]\nservice_timeout: -1\n",
            "scap/scap.cfg:2: `service_timeout` is `-1`",
        ),
        (
            "scap.cfg",
            "[global]\nnrpe_dir: etc\n",
            "scap/scap.cfg:2: `nrpe_dir` is `etc`; an absolute path",
        ),
        (
            "scap.cfg",
            "[global]\ncache_revs: none\n",
            "scap/scap.cfg:2: `cache_revs` is `none`",
        ),
        (
            "targets",
            "web1\n web2\n",
            "scap/targets:2: the name of a host was expected at the start of the line",
        ),
        ("targets", "web1\n-web2\n", "scap/targets:2: "),
        (
            "targets",
            "# none\n",
            "scap/scap.cfg:5: `dsh_targets` names scap/targets, which has no host in it",
        ),
        (
            "checks.yaml",
            "checks: [a]\n",
            "scap/checks.yaml:1: `checks` is a list; a map was expected",
        ),
        (
            "checks.yaml",
            "check: {}\n",
            "scap/checks.yaml:1: `check` of checks.yaml is not acted on: no such key; did you mean `checks`?",
        ),
        (
            "checks.yaml",
            "checks:\n  a: x\n",
            "scap/checks.yaml:2: check `a` is text; a map was expected",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    after: fetch\n",
            "scap/checks.yaml:2: check `a` has no `command`",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: x\n    after: fetched\n",
            "scap/checks.yaml:4: `fetched` of check `a` is no stage; one of fetch, config_deploy",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: x\n    after: fetch\n    before: fetch\n",
            "has more than one of `before`, `after` and `stage`",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: x 'y\n    after: fetch\n",
            "scap/checks.yaml:3: `command` of check `a`: a `'` that ends",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: ' '\n    after: fetch\n",
            "scap/checks.yaml:3: `command` of check `a` is empty",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: x\n    type: perl\n    after: fetch\n",
            "scap/checks.yaml:4: `type` of check `a` is `perl`",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: 5\n    after: fetch\n",
            "scap/checks.yaml:3: `command` of check `a` is a number; text was expected",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: x, after: fetch, timeout: 0}\n",
            "`timeout` of check `a` is a number; a number of seconds above 0",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: x, after: promote, every: often}\n",
            "`every` of check `a` is text; a number of seconds above 0",
        ),
        (
            "checks.yaml",
            "checks:\n  a:\n    command: x\n    before: promote\n    every: 5\n",
            "scap/checks.yaml:5: check `a` cannot be run again, as `every` says: only those after promote or handle_service",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: x, after: fetch, shell: 1}\n",
            "`shell` of check `a` is a number; yes or no",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: venv, type: script, after: fetch}\n",
            "scap/checks.yaml:2: check `a`: there is no scripts/venv",
        ),
        (
            "checks.yaml",
            "checks:\n  a: {command: ../x, type: script, after: fetch}\n",
            "scap/checks.yaml:2: `command` of check `a`: path `../x`",
        ),
        (
            "checks.yaml",
            "checks:\n  a: 1\n  a: 2\n",
            "scap/checks.yaml:3: `a` is there twice",
        ),
        (
            "config-files.yaml",
            "/etc/a: {template: ap.j2}\n",
            "scap/config-files.yaml:1: config file `/etc/a`: there is no templates/ap.j2; did you mean `app.j2`?",
        ),
        (
            "config-files.yaml",
            "/etc/a: {}\n",
            "scap/config-files.yaml:1: config file `/etc/a` has no `template`",
        ),
        (
            "config-files.yaml",
            "/etc/../a: {template: app.j2}\n",
            "scap/config-files.yaml:1: the destination of config file `/etc/../a`",
        ),
        (
            "config-files.yaml",
            "../a: {template: app.j2}\n",
            "scap/config-files.yaml:1: the destination of config file `../a`",
        ),
        (
            "config-files.yaml",
            "/etc/a: {template: app.j2, output_format: json}\n",
            "`output_format` of config file `/etc/a` is `json`",
        ),
        (
            "config-files.yaml",
            "/etc/a: {template: app.j2, remote_vars: vars}\n",
            "`remote_vars` of config file `/etc/a`: path `vars` is not absolute",
        ),
        (
            "config-files.yaml",
            "- a\n",
            "scap/config-files.yaml:1: scap/config-files.yaml is a list; a map was expected",
        ),
        ("vars.yaml", "a: [\n", "scap/vars.yaml:1: not YAML"),
        (
            "vars.yaml",
            "text\n",
            "scap/vars.yaml:1: scap/vars.yaml is text; a map was expected",
        ),
        (
            "scap.toml",
            "git_rep = 'a'\n",
            "scap/scap.toml:1: there is no key `git_rep`; did you mean `git_repo`?",
        ),
    ] {
        let mut files = folder();
        files.insert(path, content);
        let error = read(&files, &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains(says), "{path} {content:?}: {error}");
    }
    let error = read(&folder(), &in_environment("betta"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "--environment: there is no environment `betta`: scap/environments has beta; did you mean `beta`?"
    );
    // The one that is meant where none is said, and any name where the folder has none.
    assert!(read(&folder(), &in_environment("production")).is_ok());
    let plain = BTreeMap::from([("scap.cfg", "[global]\n")]);
    assert!(read(&plain, &in_environment("staging")).is_ok());
    // A script that cannot be run.
    let found = found(&BTreeMap::from([
        ("scap.cfg", "[global]\n"),
        (
            "checks.yaml",
            "checks:\n  a: {type: script, command: x, after: fetch}\n",
        ),
    ]));
    let mut files = found.files.clone();
    assert!(
        Scap::read(&found, &Overrides::default(), &nothing_outside)
            .unwrap_err()
            .to_string()
            .ends_with("there is no scripts/x")
    );
    files.put("scripts/x", b"", false);
    let error = Scap::read(
        &Found { files, ..found },
        &Overrides::default(),
        &nothing_outside,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "scap/checks.yaml:2: check `a`: scripts/x is not executable"
    );
}

#[test]
fn what_has_no_effect_is_told() {
    let mut files = folder();
    files.insert(
        "scap.cfg",
        "[global]\nbatch_size: 4\ndsh_targets: targets\n",
    );
    files.insert(
        "checks.yaml",
        "checks:\n  a: {command: x}\n  b: {command: x, after: fetch, retries: 3}\n",
    );
    let scap = read(&files, &Overrides::default()).unwrap();
    let notes: Vec<String> = scap.notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        notes,
        [
            "scap/scap.cfg:2: `batch_size` is not acted on: hosts are not reached by ssh",
            "scap/checks.yaml:2: check `a` never runs: it has neither `before` nor `after`",
            "scap/checks.yaml:3: `retries` of check `b` is not acted on: no such key",
            "scap/config-files.yaml:1: 2 config files are not acted on: `config_deploy` is off",
        ]
    );
    assert_eq!(
        (scap.hosts.checks.len(), scap.hosts.config_files.len()),
        (1, 0)
    );
    files.insert(
        "scap.cfg",
        "[global]\nperform_checks: False\nblock_deployments: yes\ngit_rev: v1\n",
    );
    let scap = read(&files, &Overrides::default()).unwrap();
    assert!(scap.hosts.asks_nothing() && scap.groups.is_none());
    assert_eq!(scap.blocked.unwrap().to_string(), "scap/scap.cfg:3");
    assert_eq!(scap.rev.as_deref(), Some("v1"));
}

/// Chunks in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<ChunkId, EncodedChunk>>);

impl ChunkSink for Memory {
    fn encoded_length(&self, _: &ChunkId) -> Option<u32> {
        None
    }

    fn plain(&self, _: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put(&self, chunk: &EncodedChunk) -> Result<(), SinkError> {
        self.0.lock().unwrap().insert(chunk.id(), chunk.clone());
        Ok(())
    }
}

#[test]
fn the_config_snapshot_has_what_hosts_need_and_is_the_same_each_time() {
    let pack = |files: &BTreeMap<&str, &str>, overrides: &Overrides| {
        read(files, overrides)
            .unwrap()
            .pack(&Memory::default())
            .unwrap()
    };
    let built = pack(&folder(), &Overrides::default()).unwrap();
    // host-config, two templates, one script.
    assert_eq!(built.descriptor.totals.files, 4);
    assert_eq!(
        pack(&folder(), &Overrides::default()).unwrap().snapshot,
        built.snapshot
    );
    assert_ne!(
        pack(&folder(), &in_environment("beta")).unwrap().snapshot,
        built.snapshot
    );
    let mut other = folder();
    other.insert("templates/app.j2", "another");
    assert_ne!(
        pack(&other, &Overrides::default()).unwrap().snapshot,
        built.snapshot
    );
    let plain = BTreeMap::from([("scap.cfg", "[global]\n"), ("templates/a", "b")]);
    assert!(pack(&plain, &Overrides::default()).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_file_of_a_folder_panics(
        which in prop::sample::select(vec!["scap.cfg", "targets", "checks.yaml", "config-files.yaml", "vars.yaml", "scap.toml"]),
        cut in any::<prop::sample::Index>(),
        put in "(\\PC|[\n\t:\\[{}'\"&*%-]){0,8}",
    ) {
        let mut files = folder();
        let content = files.get(which).copied().unwrap_or("git_repo = 'a'\n[checks.a]\ncommand = 'x'\n");
        let at = cut.index(content.len() + 1);
        prop_assume!(content.is_char_boundary(at));
        let changed = format!("{}{put}{}", &content[..at], &content[at..]);
        files.insert(which, &changed);
        let _ = read(&files, &Overrides::default());
    }
}
