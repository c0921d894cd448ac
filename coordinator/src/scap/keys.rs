//! The keys of `scap.cfg` and `scap.toml`: what they hold, what they are unless they are said, and what is made of them.

use super::error::nearest;

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it is unless somebody says otherwise; empty for nothing.
    pub(super) default: &'static str,
    pub(super) role: Role,
}

/// What is made of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The coordinator acts on it.
    Coordinator,
    /// It goes to the hosts.
    Hosts,
    /// Nothing; why.
    Unused(&'static str),
}

use Role::{Coordinator, Hosts, Unused};

const fn key(name: &'static str, default: &'static str, role: Role) -> Key {
    Key {
        name,
        default,
        role,
    }
}

const NO_SSH: &str = "hosts are not reached by ssh";
const NO_FETCH_URL: &str = "hosts fetch from each other, not from a git server";
const OF_THE_HOST: &str = "each host's agent has its own deploy root";
const SNAPSHOT: &str = "a release is the tree of the commit, as git has it";
const OWN_LOGS: &str = "logs and figures are told in this program's own way";
const OWN_STATE: &str = "this program has a lock and a record of its own";

/// Keys with a fixed name.
const KEYS: &[Key] = &[
    key("git_repo", "", Coordinator),
    key("environment", "", Coordinator),
    key("git_rev", "", Coordinator),
    key("dsh_targets", "", Coordinator),
    key("server_groups", "", Coordinator),
    key("group_size", "", Coordinator),
    key("failure_limit", "0%", Coordinator),
    key("failure_limit_per_site", "", Coordinator),
    key("failure_limit_per_rack", "", Coordinator),
    key("soak", "0", Coordinator),
    key("approval", "", Coordinator),
    key("prefetch", "", Coordinator),
    key("deadline", "", Coordinator),
    key("dead_man", "", Coordinator),
    key("block_deployments", "False", Coordinator),
    key("config_deploy", "False", Hosts),
    key("perform_checks", "True", Hosts),
    key("nrpe_dir", "/etc/nagios/nrpe.d", Hosts),
    key("service_name", "", Hosts),
    key("service_port", "", Hosts),
    key("service_timeout", "120", Hosts),
    key("require_valid_service", "False", Hosts),
    key("secondary_host_signal_file", "/etc/scap.secondary", Hosts),
    key("cache_revs", "5", Hosts),
    key("batch_size", "", Unused(NO_SSH)),
    key("ssh_user", "", Unused(NO_SSH)),
    key("keyholder_key", "", Unused("`--sign-with` names the key")),
    key(
        "ssh_auth_sock",
        "",
        Unused("SSH_AUTH_SOCK names the ssh-agent"),
    ),
    key("git_deploy_dir", "", Unused(OF_THE_HOST)),
    key("git_server", "", Unused(NO_FETCH_URL)),
    key("git_scheme", "", Unused(NO_FETCH_URL)),
    key("git_submodules", "", Unused(SNAPSHOT)),
    key("git_upstream_submodules", "", Unused(SNAPSHOT)),
    key("git_binary_manager", "", Unused(SNAPSHOT)),
    key("git_fat", "", Unused(SNAPSHOT)),
    key(
        "secondary_targets_disabled",
        "",
        Unused("scap3 does not read it either"),
    ),
    key("tags_to_keep", "", Unused("no tags are made")),
    key("lock_file", "", Unused(OWN_STATE)),
    key("umask", "", Unused("modes are those of git")),
    key("log_json", "", Unused(OWN_LOGS)),
    key("use_syslog", "", Unused(OWN_LOGS)),
    key("udp2log_host", "", Unused(OWN_LOGS)),
    key("udp2log_port", "", Unused(OWN_LOGS)),
    key("tcpircbot_host", "", Unused(OWN_LOGS)),
    key("tcpircbot_port", "", Unused(OWN_LOGS)),
    key("statsd_host", "", Unused(OWN_LOGS)),
    key("statsd_port", "", Unused(OWN_LOGS)),
    key("local_dev_mode", "", Unused("any machine may deploy")),
    key(
        "require_terminal_multiplexer",
        "",
        Unused("a deployment that is cut off goes on with the same command"),
    ),
];

/// Keys of a server group, after its name and `_`: the group's own in place of the one for all.
pub(super) const OF_GROUP: &[&str] = &[
    "dsh_targets",
    "hosts",
    "percent",
    "group_size",
    "failure_limit",
    "failure_limit_per_site",
    "failure_limit_per_rack",
    "soak",
    "approval",
];

/// Keys that only scap's commands for MediaWiki and Kubernetes read: names, and beginnings of names.
const ELSEWHERE: &[&str] = &[
    "dsh_proxies",
    "dsh_masters",
    "dsh_testservers",
    "mw_web_clusters",
    "master_rsync",
    "deploy_dir",
    "stage_dir",
    "lock_dir",
    "datacenter",
    "wmf_realm",
    "canary_dashboard_url",
    "canary_threshold",
    "canary_wait_time",
    "production_error_threshold",
    "testservers_",
    "logstash_",
    "debug_logstash",
    "php_l10n",
    "php7_admin_port",
    "manage_mediawiki_php_symlink",
    "beta_only_config_files",
    "foss_violations",
    "patch_",
    "require_security_patches",
    "notify_patch_failures",
    "phorge_url",
    "gerrit_",
    "operations_mediawiki_config_branch",
    "train_blockers_url",
    "version_update_patch_timeout",
    "web_proxy",
    "build_mw_",
    "full_image_build",
    "deploy_mw_container_image",
    "release_repo_",
    "docker_",
    "mediawiki_",
    "webserver_image_name",
    "helmfile_",
    "k8s_",
    "service_catalog_file",
    "cluster_groups_file",
    "conftool_state_file",
    "install_ssh_user",
    "scap_source_dir",
    "scap_targets",
    "spiderpig_",
];

/// The key by this name, with those of server groups and of stages.
pub(super) fn find(name: &str) -> Option<Key> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Some(*key);
    }
    if let Some(stage) = name.strip_suffix("_batch_size")
        && !stage.is_empty()
    {
        return Some(key("batch_size", "", Unused(NO_SSH)));
    }
    let elsewhere = ELSEWHERE
        .iter()
        .any(|start| name == *start || (start.ends_with('_') && name.starts_with(start)));
    elsewhere.then(|| key("", "", Unused("only scap's MediaWiki commands read it")))
}

/// The server group and the key of a name like `canary_dsh_targets`.
pub(super) fn of_group(name: &str) -> Option<(&str, &'static str)> {
    OF_GROUP.iter().find_map(|key| {
        let group = name.strip_suffix(key)?.strip_suffix('_')?;
        (!group.is_empty()).then_some((group, *key))
    })
}

/// All that have a value in any case.
pub(super) fn with_defaults() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| !key.default.is_empty())
}

/// All that something is made of.
pub(super) fn used() -> impl Iterator<Item = &'static str> {
    let is_used = |key: &&Key| !matches!(key.role, Unused(_));
    KEYS.iter().filter(is_used).map(|key| key.name)
}

/// The key that was probably meant.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    nearest(name, used())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_there_once_and_has_a_role() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..at].iter().all(|other| other.name != key.name),
                "{}",
                key.name
            );
            assert_eq!(find(key.name), Some(*key));
        }
        let role = |name| find(name).map(|key| key.role);
        assert_eq!(role("promote_batch_size"), Some(Unused(NO_SSH)));
        assert!(matches!(role("canary_threshold"), Some(Unused(_))));
        assert!(matches!(role("deploy_dir"), Some(Unused(_))));
        assert_eq!(role("deploy_dirs"), None);
        assert_eq!(role("dsh_target"), None);
        assert_eq!(meant("dsh_target"), Some("dsh_targets"));
        assert_eq!(
            of_group("canary_dsh_targets"),
            Some(("canary", "dsh_targets"))
        );
        assert_eq!(of_group("a_b_group_size"), Some(("a_b", "group_size")));
        assert_eq!(of_group("_group_size"), None);
        assert_eq!(of_group("group_size"), None);
    }
}
