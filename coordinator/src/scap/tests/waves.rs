//! What `scap.toml` says beyond scap3: shares of a list, budgets of sites and racks, approval, and where hosts stand.

use std::time::Duration;

use super::*;
use crate::rollout::{Budget, Prefetch};

fn native(text: &str) -> Result<Scap, ScapError> {
    let list = (1..=21).map(|n| format!("web{n:02}\n")).collect::<String>();
    let files = BTreeMap::from([("scap.toml", text), ("all", &*list)]);
    read(&files, &Overrides::default())
}

const SHARES: &str = "server_groups = ['tenth', 'half', 'rest']\nfailure_limit_per_site = 1\nprefetch = 'wave'\ndeadline = 900\ndead_man = 600\n\
    [group.tenth]\ndsh_targets = 'all'\npercent = 10\napproval = true\nsoak = 5\nfailure_limit_per_rack = '50%'\n\
    [group.half]\ndsh_targets = 'all'\npercent = 50\nfailure_limit_per_site = '20 %'\n\
    [group.rest]\ndsh_targets = 'all'\n\
    [site.north]\nhosts = ['web[01:10]', '~web1[1-3]']\n[site.south]\nhosts = ['web14']\n";

#[test]
fn waves_are_shares_of_a_list_with_budgets_for_sites_and_racks() {
    let scap = native(SHARES).unwrap();
    let groups = scap.groups.as_ref().unwrap();
    let hosts: Vec<(usize, &str)> = groups
        .iter()
        .map(|group| (group.targets.len(), group.targets[0].host.as_str()))
        .collect();
    assert_eq!(hosts, [(2, "web01"), (10, "web03"), (9, "web13")]);
    let limits: Vec<_> = groups
        .iter()
        .map(|group| (group.failure_limit_per_site, group.failure_limit_per_rack))
        .collect();
    let one = Some(Budget::Count(1));
    assert_eq!(
        limits,
        [
            (one, Some(Budget::Percent(50))),
            (Some(Budget::Percent(20)), None),
            (one, None),
        ]
    );
    let approval: Vec<bool> = groups.iter().map(|group| group.needs_approval).collect();
    assert_eq!(approval, [true, false, false]);
    assert_eq!(
        scap.rollout,
        Rollout {
            prefetch: Some(Prefetch::Wave),
            deadline: Some(Duration::from_secs(900)),
            dead_man: Some(Duration::from_secs(600)),
        }
    );
    let site = |host: &str| {
        let site = scap.sites.site_of(&host.parse().unwrap()).unwrap();
        site.map(|(site, at)| (site.to_owned(), at.to_string()))
    };
    let north = |at: &str| Some(("north".to_owned(), at.to_owned()));
    assert_eq!(site("web10"), north("scap/scap.toml:19"));
    assert_eq!(site("web13"), north("scap/scap.toml:19"));
    assert_eq!(site("web14").unwrap().0, "south");
    assert_eq!(site("web15"), None);
    assert!(scap.notices.is_empty(), "{:?}", scap.notices);
}

#[test]
fn scap_cfg_says_all_of_it_too_but_where_hosts_stand() {
    let text = "[global]\nserver_groups: first,rest\nfirst_hosts: a,b,c\nfirst_percent: 1\nfirst_approval: yes\nrest_hosts: c,b\n\
                rest_failure_limit_per_rack: 1\nprefetch: all\n";
    let scap = read(&BTreeMap::from([("scap.cfg", text)]), &Overrides::default()).unwrap();
    let groups = scap.groups.unwrap();
    assert_eq!(
        (groups[0].targets.len(), groups[1].targets.len()),
        (1, 2),
        "a share of a list is of one host at least"
    );
    assert!(groups[0].needs_approval && !groups[1].needs_approval);
    assert_eq!(groups[1].failure_limit_per_rack, Some(Budget::Count(1)));
    assert_eq!(scap.rollout.prefetch, Some(Prefetch::All));
}

#[test]
fn a_group_may_have_capitals_and_hosts_of_groups_before_it_are_known() {
    let lists = [("Canaries", "web2\n"), ("all", "web1\nweb2\nweb3\n")];
    for (file, text) in [
        (
            "scap.cfg",
            "[global]\nserver_groups: Canary, default\nCanary_dsh_targets: Canaries\ndsh_targets: all\nCanary_soak: 9\n",
        ),
        (
            "scap.toml",
            "server_groups = ['Canary', 'default']\n[group.Canary]\ndsh_targets = 'Canaries'\nsoak = 9\n[group.default]\ndsh_targets = 'all'\n",
        ),
    ] {
        let mut files = BTreeMap::from(lists);
        files.insert(file, text);
        let scap = read(&files, &Overrides::default()).unwrap();
        assert!(scap.notices.is_empty(), "{:?}", scap.notices);
        let groups = scap.groups.unwrap();
        assert_eq!(
            (groups[0].name.as_str(), groups[0].soak.as_secs()),
            ("Canary", 9)
        );
        let elsewhere: Vec<String> = groups[1]
            .elsewhere
            .iter()
            .map(|it| it.at.to_string())
            .collect();
        assert_eq!(elsewhere, ["scap/all:2"]);
    }
}

#[test]
fn hosts_that_a_share_leaves_to_nobody_are_told() {
    let shares = SHARES.replace("'half', 'rest'", "'half'");
    let without_rest = shares.replace("[group.rest]\ndsh_targets = 'all'\n", "");
    let scap = native(&without_rest).unwrap();
    assert_eq!(scap.left_out().count(), 9);
    let notices: Vec<String> = scap.notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        notices,
        [
            "scap/all:13: host web13 and 8 more are not deployed to: `percent` leaves them to a later group, and none has them"
        ]
    );
}

#[test]
fn where_no_host_list_is_named_what_would_be_of_its_groups_is_told() {
    let text = "soak = 3\nfailure_limit = '10%'\ngroup_size = 2\ndeadline = 60\n[group.canary]\nsoak = 4\n";
    let notices: Vec<String> = native(text)
        .unwrap()
        .notices
        .iter()
        .map(Notice::to_string)
        .collect();
    let why = "is not acted on: no host list is named, and the fleet file says the waves";
    assert_eq!(
        notices,
        [
            "scap/scap.toml:6: `canary_soak` is not acted on: `server_groups` has no `canary`"
                .to_owned(),
            format!("scap/scap.toml:2: `failure_limit` {why}"),
            format!("scap/scap.toml:3: `group_size` {why}"),
            format!("scap/scap.toml:1: `soak` {why}"),
        ]
    );
}

#[test]
fn what_is_wrong_with_them_is_told_with_its_line() {
    let group =
        |text: &str| format!("server_groups = ['a']\n[group.a]\nhosts = ['web1']\n{text}\n");
    for (text, says) in [
        (
            group("percent = 0"),
            "scap.toml:4: `a_percent` is `0`; a whole number from 1 to 100 was expected",
        ),
        (group("percent = 101"), "scap.toml:4: `a_percent` is `101`"),
        (
            group("approval = 'perhaps'"),
            "scap.toml:4: `a_approval` is `perhaps`; yes, true",
        ),
        (
            group("failure_limit_per_site = '101%'"),
            "scap.toml:4: `a_failure_limit_per_site` is `101%`; a number of hosts, or 0% to 100% was expected",
        ),
        (
            "prefetch = 'none'\n".into(),
            "scap.toml:1: `prefetch` is `none`; canary, wave or all was expected",
        ),
        (
            "deadline = 0\n".into(),
            "scap.toml:1: `deadline` is `0`; a whole number of seconds, from 1",
        ),
        (
            "dead_man = 9\n".into(),
            "scap.toml:1: `dead_man` is `9`; a whole number of seconds from 10 to 86400 was expected",
        ),
        (
            "[site.x]\n".into(),
            "scap.toml:1: site `x` has no `hosts`: names of hosts, or patterns like `web[01:10]*` were expected",
        ),
        (
            "[site.x]\nhosts = 'a'\n".into(),
            "scap.toml:2: `hosts` of site `x` is text; names of hosts",
        ),
        (
            "[site.x]\nhosts = [1]\n".into(),
            "scap.toml:2: one of `hosts` of site `x` is a number; names of hosts",
        ),
        (
            "[site.x]\nhosts = ['a[']\n".into(),
            "scap.toml:2: `hosts` of site `x`, `a[`: `]` was expected after `[`",
        ),
        (
            "[site.x]\nhost = ['a']\n".into(),
            "scap.toml:2: `host` of site `x` is not acted on: no such key; did you mean `hosts`?",
        ),
        (
            "[site.\"x\\u001b\"]\nhosts = ['a']\n".into(),
            "scap.toml:1: site `x\\u{1b}`: the name has a control character",
        ),
        (
            "server_groups = [\"x\\u001b\"]\n".into(),
            "scap.toml:1: a group's name has a control character: `x\\u{1b}`",
        ),
        (
            format!("[site.{}]\nhosts = ['a']\n", "x".repeat(65)),
            "scap.toml:1: site `xxx",
        ),
        (
            group("[site.x]\nhosts = ['web*']\n[site.y]\nhosts = ['web1']"),
            "scap.toml:7: host web1 is in site `x` (scap/scap.toml:5) and in site `y`; one of them was expected",
        ),
    ] {
        let error = native(&text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("scap/{says}")),
            "{text:?}: {error}"
        );
    }
}
