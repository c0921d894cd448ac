//! A file that says all keys, and the folder without its keys.

use super::*;

/// What the machine and the folder say of a key, and how to read them with a file beside.
fn read_with(
    folder: &[(&str, &str)],
    conf: &str,
    overrides: &Overrides,
) -> Result<Scap, ScapError> {
    let outside = |path: &Path| {
        let text = match path.to_str() {
            Some("/etc/scap.cfg") => {
                "[global]\ngit_repo: of/machine\ngroup_size: 7\ncache_revs: 8\n"
            }
            Some("/srv/other.cfg") => conf,
            _ => return Ok(None),
        };
        Ok(Some(text.as_bytes().to_vec()))
    };
    Scap::read(
        &found(&folder.iter().copied().collect()),
        overrides,
        &outside,
    )
}

const FOLDER: [(&str, &str); 5] = [
    (
        "scap.cfg",
        "[global]\ngit_repo: of/folder\ngroup_size: 2\ndsh_targets: all\n",
    ),
    ("scap.toml", "failure_limit = 1\n"),
    ("vars.yaml", "level: warn\n"),
    ("all", "web1\n"),
    (
        "environments/beta/scap.cfg",
        "[global]\ngit_repo: of/beta\n",
    ),
];

fn with_conf() -> Overrides {
    Overrides {
        conf: Some("/srv/other.cfg".into()),
        ..Overrides::default()
    }
}

/// Each key with its value and who says it; a key that nobody says is left out.
fn said(scap: &Scap) -> Vec<String> {
    let keys = [
        "git_repo",
        "group_size",
        "cache_revs",
        "failure_limit",
        "dsh_targets",
    ];
    let one = |key| {
        let setting = scap
            .settings
            .get(key)
            .filter(|it| it.at != Origin::Default)?;
        Some(format!("{key}={} {}", setting.value, setting.at))
    };
    keys.into_iter().filter_map(one).collect()
}

#[test]
fn a_file_that_is_named_says_keys_in_place_of_all_others_and_flags_stand_over_it() {
    let conf = "[global]\ngit_repo: of/conf\ngroup_size: 3\n[example.org]\ngroup_size: 4\n";
    let scap = read_with(&FOLDER, conf, &with_conf()).unwrap();
    assert_eq!(
        said(&scap),
        [
            "git_repo=of/conf /srv/other.cfg:2",
            "group_size=3 /srv/other.cfg:3"
        ]
    );
    // What is not of keys is the folder's still.
    assert_eq!(scap.hosts.vars, r#"{"level":"warn"}"#);
    // Nor does an environment's file say any; sections and flags count as ever.
    let overrides = Overrides {
        environment: Some("beta".parse().unwrap()),
        defines: vec![("git_repo".into(), "of/flag".into())],
        host_name: HostName::Said("d1.example.org".into()),
        ..with_conf()
    };
    let scap = read_with(&FOLDER, conf, &overrides).unwrap();
    assert_eq!(
        said(&scap),
        ["git_repo=of/flag -D", "group_size=4 /srv/other.cfg:5"]
    );
    assert_eq!(scap.environment.unwrap().as_str(), "beta");
    // Without a folder it says all of it, too.
    let outside = |_: &Path| Ok(Some(conf.as_bytes().to_vec()));
    let scap = Scap::read(&Found::nothing(), &with_conf(), &outside).unwrap();
    assert_eq!(scap.repo.unwrap().as_str(), "of/conf");
}

#[test]
fn without_local_configuration_the_machine_says_the_keys() {
    let overrides = Overrides {
        is_local_left_out: true,
        ..Overrides::default()
    };
    let scap = read_with(&FOLDER, "", &overrides).unwrap();
    let at = "/etc/scap.cfg";
    assert_eq!(
        said(&scap),
        [
            format!("git_repo=of/machine {at}:2"),
            format!("group_size=7 {at}:3"),
            format!("cache_revs=8 {at}:4")
        ]
    );
    // Who names a file has its keys, whatever else is left out.
    let both = Overrides {
        is_local_left_out: true,
        ..with_conf()
    };
    let scap = read_with(&FOLDER, "[global]\ngit_repo: of/conf\n", &both).unwrap();
    assert_eq!(said(&scap), ["git_repo=of/conf /srv/other.cfg:2"]);
}

#[test]
fn a_file_that_is_missing_or_malformed_is_named_with_its_line() {
    let malformed = read_with(&FOLDER, "[global]\ngit_repo: a/b\nnonsense\n", &with_conf());
    let error = malformed.unwrap_err().to_string();
    assert!(error.starts_with("/srv/other.cfg:3: "), "{error}");
    let overrides = Overrides {
        conf: Some("/srv/none.cfg".into()),
        ..Overrides::default()
    };
    let missing = read_with(&FOLDER, "", &overrides).unwrap_err();
    assert_eq!(missing.to_string(), "read /srv/none.cfg");
    // The folder's own is not read at all.
    let mut folder = FOLDER;
    folder[0].1 = "nonsense";
    assert!(read_with(&folder, "[global]\n", &with_conf()).is_ok());
    assert!(read_with(&folder, "[global]\n", &Overrides::default()).is_err());
}
