//! The files of a scap folder, each in a folder whose other files are as they should be.

use std::path::Path;

use bytes::Bytes;
use scap_coordinator::{
    scap::{Found, Overrides, Place, Scap, ScapError},
    snapshot::HeldFile,
};
use scap_proto::{
    content::RelPath,
    release::{HostConfig, host_config::SCRIPTS},
};

use super::shown;

const CFG: &str = "[global]\ngit_repo: mw/service\nserver_groups: canary, default\n\
    canary_dsh_targets: canaries\ndsh_targets: targets\ngroup_size: 2\nfailure_limit: 34%\n\
    config_deploy: True\nservice_name: mw=reload\n";

const FILES: [(&str, &str); 9] = [
    ("scap.cfg", CFG),
    ("canaries", "web2\n"),
    ("targets", "web1\nweb2\nweb3\n"),
    (
        "checks.yaml",
        "checks:\n  ping: {type: nrpe, command: check_ping, after: promote, group: canary}\n  \
        venv: {type: script, command: venv.sh, after: fetch}\n",
    ),
    (
        "config-files.yaml",
        "/etc/mw/app.yaml: {template: app.j2}\n",
    ),
    ("vars.yaml", "port: 8080\n"),
    ("templates/app.j2", "port: {{ port }}\n"),
    ("templates/config.yaml.j2", "port: {{ port }}\n"),
    ("scripts/venv.sh", "#!/bin/sh\n"),
];

/// `scap.cfg`.
pub fn scap_cfg(bytes: &[u8]) {
    read("scap.cfg", bytes);
}

/// `scap.toml`.
pub fn scap_toml(bytes: &[u8]) {
    read("scap.toml", bytes);
}

/// `checks.yaml`.
pub fn checks(bytes: &[u8]) {
    read("checks.yaml", bytes);
}

/// `config-files.yaml`.
pub fn config_files(bytes: &[u8]) {
    read("config-files.yaml", bytes);
}

/// A list of hosts.
pub fn host_list(bytes: &[u8]) {
    read("targets", bytes);
}

fn read(name: &str, bytes: &[u8]) {
    let others = FILES.iter().filter(|(other, _)| *other != name);
    let others = others.map(|(name, text)| (*name, text.as_bytes()));
    let held = |(name, bytes): (&str, &[u8])| {
        let path = RelPath::new(name.as_bytes().to_vec()).expect("a plain path");
        let file = HeldFile {
            bytes: Bytes::copy_from_slice(bytes),
            is_executable: name.starts_with(SCRIPTS),
        };
        (path, file)
    };
    let files = others.chain([(name, bytes)]).map(held).collect();
    let Ok(found) = Found::held(Place::Named("scap".into()), &files).map_err(inert) else {
        return;
    };
    let nothing = |_: &Path| Ok(None);
    let Ok(scap) = Scap::read(&found, &Overrides::default(), &nothing).map_err(inert) else {
        return;
    };
    for notice in &scap.notices {
        is_inert(&notice.to_string());
    }
    for (key, setting) in scap.settings.iter() {
        // What is blank counts as not said.
        let said = scap.settings.get(key);
        assert!(said.is_none_or(|said| said == setting), "{key}");
    }
    for group in scap.groups.iter().flatten() {
        let targets: usize = group.sub_groups().map(<[_]>::len).sum();
        assert_eq!(targets, group.targets.len(), "each is in one sub-group");
        assert!(group.failures_max() <= group.targets.len());
        for target in &group.targets {
            if let Err(error) = scap.sites.site_of(&target.host) {
                panic!(
                    "it was looked up when the folder was read: {}",
                    shown(error)
                );
            }
        }
    }
    scap.left_out().count();
    if let Ok(bytes) = scap.hosts.encode().map_err(shown) {
        let back = HostConfig::decode(&bytes).expect("hosts read what they are sent");
        assert_eq!(back, scap.hosts);
    }
    if let Ok(Some(files)) = scap.files().map_err(inert) {
        assert!(!files.is_empty());
    }
}

/// The text of an error, in which what a repo says does nothing to a terminal.
fn inert(error: ScapError) -> String {
    if let Some(hint) = error.hint() {
        is_inert(&hint);
    }
    let text = shown(error);
    is_inert(&text);
    text
}

fn is_inert(text: &str) {
    let acts = |c: char| c.is_control() && c != '\n';
    assert!(!text.chars().any(acts), "{text:?}");
}
