//! The question what config files would change, and its answers, in bytes; and whom it is answered.

use std::num::NonZeroUsize;

use scap_proto::{
    limits::CONFIG_QUESTION_BYTES_MAX,
    release::{
        Authority, AuthorityError, ConfigQuestion, SignedConfigQuestion, SignedRelease, UnixMillis,
        config_question::{AskConfigError, CONFIG_QUESTION_MILLIS_MAX, ConfigQuestionError},
        host_config::{ConfigFile, Destination, HostPath, OutputFormat},
        signature::{Signer, SshSignature, allowed_signers_line},
        signed::SignedObject,
    },
    wire::config::{Attributes, ConfigAnswer, ConfigChanges, FileChange, FileStatus},
};

use super::*;

const QUESTION: &str = "
    736361702d636f6e6669672d7175657374696f6e2f310a # scap-config-question/1\\n
    09 6d772f636f6e666967                   # mw/config
    0a 70726f64756374696f6e                 # production
    03 616c6c                               # all
    abababababababababababababababab abababababababababababababababab
                                            # the key of who asks
    02 03 646231 04 77656231                # db1 and web1 are asked
    fd 087be07c9b010000                     # expires 2026-01-02 04:04:05 UTC
    01                                      # one config file
      00 0a 6574632f612e79616d6c            #   on the host: /etc/a.yaml
      04 612e6a32                           #   from templates/a.j2
      01 05 6574632f76                      #   with the variables in /etc/v
      01 00                                 #   as YAML, with Jinja's delimiters
    07 7b2270223a317d                       # {\"p\":1}
    01 04 612e6a32 02 6869                  # one template, a.j2: hi
    00                                      # no extensions
";

const EXPIRES: UnixMillis = UnixMillis(1_767_326_645_000);

fn question() -> ConfigQuestion {
    ConfigQuestion {
        repo: "mw/config".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: "all".parse().unwrap(),
        asker: [0xab; 32],
        hosts: ["db1", "web1"].map(|name| name.parse().unwrap()).to_vec(),
        expires: EXPIRES,
        files: vec![ConfigFile {
            destination: Destination::OnHost(HostPath::new("/etc/a.yaml").unwrap()),
            template: path("a.j2"),
            remote_vars: Some(HostPath::new("/etc/v").unwrap()),
            format: OutputFormat::Yaml,
            has_erb_syntax: false,
        }],
        vars: "{\"p\":1}".into(),
        templates: [(path("a.j2"), Bytes::from_static(b"hi"))].into(),
        extensions: Extensions::default(),
    }
}

fn path(path: &str) -> RelPath {
    RelPath::new(path.to_owned()).unwrap()
}

/// A signature that has the form of one.
fn signature() -> SshSignature {
    let release: SignedRelease = codec::decode(&signed_release()).unwrap();
    release.signatures[0].clone()
}

#[test]
fn a_question_about_config_files_is_golden() {
    let payload = golden(QUESTION);
    assert_eq!(
        hex::encode(question().to_payload()),
        hex::encode(payload.clone())
    );
    assert_eq!(ConfigQuestion::from_payload(&payload).unwrap(), question());
    let signed = SignedConfigQuestion {
        payload: payload.clone().into(),
        signatures: vec![signature()],
    };
    let length = golden("90 # 144 bytes");
    let armoured = codec::encode(&signature());
    let body = [vec![4], length, payload, vec![1], armoured, vec![0]].concat();
    check_frame(Open::Config(Box::new(signed)), &framed(&body));
}

#[test]
fn what_hosts_answer_about_config_files_is_golden() {
    let changes = "
        64000000                            # 100 bytes
        00                                  # how files differ from what is there:
        01                                  # of this release
          a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
          07                                #   with sequence 7
        02                                  # two files
          00 0a 6574632f612e79616d6c        #   /etc/a.yaml
          01                                #   changes
          01 11 40402d3120 2b3120 40400a2d610a2b620a # by this diff
          03                                #   and three more lines of it
          01 fb 8001 00 05                  #   from mode 0600, user 0, group 5
             fb a401 fb e803 05             #   to 0644, user 1000, group 5
          01 02 6e6f                        #   and: no
          01 01 62                          #   b in the release
          04                                #   cannot be rendered
          00 00 00                          #   no diff, and nothing of its mode
          01 01 78                          #   since: x
        fb 2c01                             # 300 files more
        00                                  # no extensions
    ";
    let attributes = |mode, uid| Attributes { mode, uid, gid: 5 };
    let answer = ConfigAnswer::Changes(ConfigChanges {
        live: Some((release_id(), 7)),
        files: vec![
            FileChange {
                destination: Destination::OnHost(HostPath::new("/etc/a.yaml").unwrap()),
                status: FileStatus::Changed,
                diff: Some("@@-1 +1 @@\n-a\n+b\n".into()),
                diff_lines_left_out: 3,
                attributes: Some((attributes(0o600, 0), attributes(0o644, 1000))),
                note: Some("no".into()),
            },
            FileChange {
                destination: Destination::InRelease(path("b")),
                status: FileStatus::Error,
                diff: None,
                diff_lines_left_out: 0,
                attributes: None,
                note: Some("x".into()),
            },
        ],
        files_left_out: 300,
    });
    let expected = golden(changes);
    check_frame(answer, &expected);
    for (answer, text) in [
        (ConfigAnswer::Refused("no".into()), "05000000 01 02 6e6f 00"),
        (ConfigAnswer::Busy, "02000000 02 00"),
        (ConfigAnswer::Failed("no".into()), "05000000 03 02 6e6f 00"),
    ] {
        check_frame(answer, &golden(text));
    }
}

#[test]
fn a_question_is_answered_only_whom_and_where_and_when_its_signers_say() {
    let directory = tempfile::tempdir().unwrap();
    let create = |name: &str| Signer::create(&directory.path().join(name), name).unwrap();
    let (ours, second, other) = (create("ours"), create("second"), create("other"));
    let lines = [
        allowed_signers_line("ours", "scap-release:production:mw/*", ours.public_key()),
        allowed_signers_line("second", "*", second.public_key()),
        allowed_signers_line("other", "scap-release:staging:*", other.public_key()),
    ];
    let signers: AllowedSigners = lines.join("\n").parse().unwrap();
    let authority = |threshold| Authority {
        signers: &signers,
        threshold: NonZeroUsize::new(threshold).unwrap(),
    };
    let now = UnixMillis(EXPIRES.0 - 1000);
    let host = |name: &str| -> NodeId { name.parse().unwrap() };
    let sign =
        |question: &ConfigQuestion, signer| SignedConfigQuestion::sign(question, signer).unwrap();
    let signed = sign(&question(), &ours);
    let asker = [0xab; 32];
    let verify = |signed: &SignedConfigQuestion, threshold| {
        signed.verify(&authority(threshold), &asker, &host("web1"), now)
    };
    assert_eq!(verify(&signed, 1).unwrap(), question());

    let of = |host: &NodeId, asker: &[u8; 32], now| signed.verify(&authority(1), asker, host, now);
    assert!(matches!(
        of(&host("web1"), &[0xac; 32], now),
        Err(ConfigQuestionError::Asker)
    ));
    assert!(matches!(
        of(&host("web2"), &asker, now),
        Err(ConfigQuestionError::NotAsked(_))
    ));
    let late = of(&host("web1"), &asker, UnixMillis(EXPIRES.0 + 1));
    let Err(ConfigQuestionError::Authority(AuthorityError::Expired { .. })) = late else {
        panic!("{late:?}");
    };
    let long_ago = UnixMillis(EXPIRES.0 - CONFIG_QUESTION_MILLIS_MAX - 1);
    assert!(matches!(
        of(&host("web1"), &asker, long_ago),
        Err(ConfigQuestionError::Lasting { .. })
    ));

    // As many signers as a release takes, each of whom may release it.
    let is_unsigned = |result| {
        matches!(
            result,
            Err(ConfigQuestionError::Authority(
                AuthorityError::Signers { .. }
            ))
        )
    };
    assert!(is_unsigned(verify(&signed, 2)));
    let mut both = signed.clone();
    both.signatures
        .extend(sign(&question(), &second).signatures);
    assert!(verify(&both, 2).is_ok());
    assert!(is_unsigned(verify(&sign(&question(), &other), 1)));
    // What was signed as something else is no question.
    let namespace = "scap-release:production:mw/config";
    let release = golden(RELEASE);
    let release = SignedConfigQuestion {
        signatures: vec![ours.sign(namespace, &release).unwrap()],
        payload: release.into(),
    };
    assert!(matches!(
        verify(&release, 1),
        Err(ConfigQuestionError::Authority(AuthorityError::Codec(_)))
    ));

    let disorder = ConfigQuestion {
        hosts: vec![host("web1"), host("db1")],
        ..question()
    };
    assert!(matches!(
        verify(&sign(&disorder, &ours), 1),
        Err(ConfigQuestionError::Authority(AuthorityError::Targets))
    ));
    let room = CONFIG_QUESTION_BYTES_MAX - question().to_payload().len() + 7;
    // Its length takes four bytes more.
    let with = |bytes: usize| ConfigQuestion {
        vars: "x".repeat(bytes - 4),
        ..question()
    };
    let full = sign(&with(room), &ours);
    assert_eq!(full.payload.len(), CONFIG_QUESTION_BYTES_MAX);
    let most = SignedConfigQuestion {
        signatures: vec![full.signatures[0].clone(); 8],
        ..full
    };
    let open = Envelope::from(Open::Config(Box::new(most)));
    assert!(frame::encode_frame(&open).is_ok());
    assert!(matches!(
        SignedConfigQuestion::sign(&with(room + 1), &ours),
        Err(AskConfigError::TooLong(_))
    ));
}

proptest! {
    #[test]
    fn a_golden_question_damaged_does_not_panic(damages in any_damages()) {
        let bytes = damage(&golden(QUESTION), &damages);
        let _ = ConfigQuestion::from_payload(&bytes);
    }
}
