//! What a release asks of hosts, in bytes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use scap_proto::{
    content::RelPath,
    limits::HOST_CONFIG_BYTES_MAX,
    release::{
        HostConfig, HostConfigError,
        host_config::{
            Check, Command, ConfigFile, Destination, HostGroup, HostPath, HostPathError, HostStage,
            Moment, OutputFormat, Service, ServiceAction, Services,
        },
    },
};

use super::*;

const HOST_CONFIG: &str = "
    736361702d686f73742d636f6e6669672f310a  # scap-host-config/1\\n
    04 62657461                             # beta
    02                                      # two config files
      00 0a 6574632f612e79616d6c            #   on the host: /etc/a.yaml
      04 612e6a32                           #   from templates/a.j2
      01 05 6574632f76                      #   with the variables in /etc/v
      01 00                                 #   as YAML, with Jinja's delimiters
      01 01 62                              #   in the release: b
      05 622e657262                         #   from templates/b.erb
      00 00 01                              #   no variables, as Python, with ERB's delimiters
    07 7b2270223a317d                       # {\"p\":1}
    04                                      # four checks
      01 70 00 02 01 64 01 78               #   p, a program with one argument: d x
      00 02 00 fb 3075                      #   before promote, on all, 30 s
      01 73 01 03 617c62                    #   s, a line for the shell: a|b
      01 00 00 fb 3075                      #   after fetch
      01 6e 02 04 70696e67                  #   n, of NRPE: ping
      01 03 01 06 63616e617279 fb 3075      #   after handle_service, on group canary
      01 77 03 04 772e7368 01 02 2d76       #   w, scripts/w.sh with one argument: -v
      01 05 00 fb 3075                      #   after rollback
    01                                      # one group
      06 63616e617279                       #   canary
      02 03 646231 04 77656231              #   db1, web1
    01                                      # one service
      02 6d77 01 01                         #   mw: reload, disabled on secondary hosts
    01 fb 901f fc c0d40100                  # port 8080, 120 s
    00                                      # also units that the host does not know
    12 6574632f736361702e7365636f6e64617279 # /etc/scap.secondary
    11 6574632f6e6167696f732f6e7270652e64   # /etc/nagios/nrpe.d
    05                                      # five release directories
    00                                      # no extensions
";

fn path(text: &str) -> HostPath {
    HostPath::new(text).unwrap()
}

fn below(text: &str) -> RelPath {
    RelPath::new(text.to_owned()).unwrap()
}

fn host_config() -> HostConfig {
    let check = |name: &str, command, moment, stage, group: Option<&str>| Check {
        name: name.into(),
        command,
        moment,
        stage,
        group: group.map(Into::into),
        timeout_millis: NonZeroU32::new(30_000).unwrap(),
    };
    let script = Command::Script {
        path: below("w.sh"),
        arguments: vec!["-v".into()],
    };
    HostConfig {
        environment: "beta".parse().unwrap(),
        config_files: vec![
            ConfigFile {
                destination: Destination::OnHost(path("/etc/a.yaml")),
                template: below("a.j2"),
                remote_vars: Some(path("/etc/v")),
                format: OutputFormat::Yaml,
                has_erb_syntax: false,
            },
            ConfigFile {
                destination: Destination::InRelease(below("b")),
                template: below("b.erb"),
                remote_vars: None,
                format: OutputFormat::Python,
                has_erb_syntax: true,
            },
        ],
        vars: r#"{"p":1}"#.into(),
        checks: vec![
            check(
                "p",
                Command::Program(vec!["d".into(), "x".into()]),
                Moment::Before,
                HostStage::Promote,
                None,
            ),
            check(
                "s",
                Command::Shell("a|b".into()),
                Moment::After,
                HostStage::Fetch,
                None,
            ),
            check(
                "n",
                Command::Nrpe("ping".into()),
                Moment::After,
                HostStage::HandleService,
                Some("canary"),
            ),
            check("w", script, Moment::After, HostStage::Rollback, None),
        ],
        groups: vec![HostGroup {
            name: "canary".into(),
            hosts: vec![name("db1"), name("web1")],
        }],
        services: Services {
            units: vec![Service {
                name: "mw".into(),
                action: ServiceAction::Reload,
                is_disabled_on_secondary: true,
            }],
            port: Some(8080),
            port_timeout_millis: NonZeroU32::new(120_000).unwrap(),
            skips_unknown: false,
            secondary_signal_file: path("/etc/scap.secondary"),
        },
        nrpe_directory: path("/etc/nagios/nrpe.d"),
        cache_revs: NonZeroU32::new(5).unwrap(),
        extensions: Extensions::default(),
    }
}

#[test]
fn what_hosts_are_asked_has_golden_bytes_and_grows_by_extensions() {
    check_payload(&host_config(), HOST_CONFIG);
    let bytes = host_config().encode().unwrap();
    assert_eq!(HostConfig::decode(&bytes).unwrap(), host_config());
}

#[test]
fn which_checks_are_run_again_is_an_extension_that_older_builds_pass_over() {
    let repeats = [("n".to_owned(), NonZeroU32::new(30_000).unwrap())].into();
    let repeating = host_config().repeating(&repeats).unwrap();
    // One extension: 2, of 6 bytes: one check, n, 30 s.
    let bytes = with_extensions(&golden(HOST_CONFIG), "01 02 06 01 01 6e fb 3075");
    assert_eq!(repeating.to_payload(), bytes);
    let read = HostConfig::decode(&bytes).unwrap();
    assert_eq!(read.repeats().unwrap(), repeats);
    assert_eq!(read.extensions.require_known(&[]), Ok(()));
    assert_eq!(
        host_config().repeating(&BTreeMap::new()).unwrap(),
        host_config()
    );
    assert_eq!(host_config().repeats().unwrap(), BTreeMap::new());
    let other = with_extensions(&golden(HOST_CONFIG), "01 02 01 07");
    assert!(matches!(
        HostConfig::decode(&other),
        Err(HostConfigError::Codec(_))
    ));
}

#[test]
fn what_hosts_are_asked_is_bounded() {
    let long = HostConfig {
        vars: "x".repeat(HOST_CONFIG_BYTES_MAX),
        ..host_config()
    };
    assert!(matches!(long.encode(), Err(HostConfigError::TooLong(_))));
    assert!(matches!(
        HostConfig::decode(&long.to_payload()),
        Err(HostConfigError::TooLong(_))
    ));
    assert!(!host_config().asks_nothing());
}

#[test]
fn a_path_on_a_host_is_absolute_and_leads_nowhere_else() {
    assert_eq!(path("/etc/a b").to_string(), "/etc/a b");
    assert_eq!(path("/etc/x").to_path(), Path::new("/etc/x"));
    assert!(matches!(
        HostPath::new("etc/x"),
        Err(HostPathError::Relative(_))
    ));
    for bad in ["", "/", "//etc", "/etc/", "/etc/../x", "/./x", "/etc/\0"] {
        assert!(HostPath::new(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_what_hosts_are_asked_panics(damages in any_damages(), bytes in vec(any::<u8>(), 0..300)) {
        check_object(&host_config(), &damages);
        check_bytes::<HostConfig>(&[HostConfig::MAGIC.as_bytes(), &bytes].concat());
    }
}

#[test]
fn a_grant_of_a_release_that_asks_has_an_extension_that_older_builds_refuse() {
    let grant = grant().needing_stages();
    // One extension: 1, no bytes.
    let bytes = with_extensions(&golden(GRANT), "01 01 00");
    assert_eq!(grant.to_payload(), bytes);
    assert_eq!(Grant::from_payload(&bytes).unwrap(), grant);
    assert_eq!(grant.clone().needing_stages(), grant);
    assert_eq!(
        grant.extensions.require_known(&[]),
        Err(ExtensionError::Required(1))
    );
}

#[test]
fn a_config_snapshot_is_opened_by_an_id_of_its_release() {
    let id = ReleaseId::of(&golden(RELEASE));
    let bytes = [&b"scap-config-snapshot/1\n"[..], id.as_bytes()].concat();
    assert_eq!(Release::config_id(id), ReleaseId::of(&bytes));
}
