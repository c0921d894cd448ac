//! One object of each kind in bytes, as they travel, and ways to damage bytes. The keys that signed
//! them are gone.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};
use scap_proto::{
    extensions::{Extension, Extensions},
    release::{LeafSigned, SignedReport},
};

/// The only line of an `allowed_signers` file: who signed the release and the grant.
pub const DEPLOYER: &str = "deploy@example.org namespaces=\"scap-release:production:*\" ssh-ed25519 \
    AAAAC3NzaC1lZDI1NTE5AAAAIPamuP9a+319bKsDTjWG2pP1mdo5vJRBq6ecY2OjEtal";

pub const RELEASE: &str = "
    736361702d72656c656173652f310a          # scap-release/1\\n
    09 6d772f636f6e666967                   # mw/config
    0a 70726f64756374696f6e                 # production
    03 616c6c                               # all
    07                                      # sequence 7
    11111111111111111111111111111111 11111111111111111111111111111111
      fb 2c01                               #   a descriptor of 300 bytes
    01                                      # a commit
      14 0102030405060708090a0b0c0d0e0f1011121314
    01                                      # a snapshot of the configuration
      22222222222222222222222222222222 22222222222222222222222222222222
      5a                                    #   a descriptor of 90 bytes
    01                                      # one delta, from
      33333333333333333333333333333333 33333333333333333333333333333333
      01                                    #   in one chunk
      44444444444444444444444444444444 44444444444444444444444444444444
      fc 70110100                           #   of 70,000 bytes
    01                                      # a release before
      55555555555555555555555555555555 55555555555555555555555555555555
    fd 888ca97c9b010000                     # created 2026-01-02 03:04:05 UTC
    fd 087be07c9b010000                     # expires an hour later
    00                                      # no extensions
";

pub const RELEASE_ID: &str = "a275be35e70ecf2f8f90b8413fdea6806936fd022444d0fc6c362df06102e41a";

const RELEASE_SIGNATURE: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg9qa4/1r7fX1sqwNONYbak/WZ2j
m8lEGrp5xjY6MS1qUAAAAhc2NhcC1yZWxlYXNlOnByb2R1Y3Rpb246bXcvY29uZmlnAAAA
AAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5AAAAQLp0tkshEWi23b9CizZUvMYXWI
QhEPGIbvV5KlboPY/MSmZEs5jUrwm5rN1ocaScD2WmfwVPgOVUBYRE34g3Rws=
-----END SSH SIGNATURE-----
";

pub const GRANT: &str = "
    736361702d6772616e742f310a              # scap-grant/1\\n
    a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    7550a6fcef19918ddd3695a8ec94494e 446279a9915025d1dbb0563160bb46db
                                            # the release, the session's public key
    01                                      # epoch 1
    fd 087be07c9b010000                     # expires with the release
    00                                      # no extensions
";

const GRANT_SIGNATURE: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg9qa4/1r7fX1sqwNONYbak/WZ2j
m8lEGrp5xjY6MS1qUAAAAhc2NhcC1yZWxlYXNlOnByb2R1Y3Rpb246bXcvY29uZmlnAAAA
AAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5AAAAQOOLgCS0Avmu/PRp6+rtvPUjfj
YevF2fEqW3DHkNj6OAbPyhXD4qRqGt2YybB29pdWq++vCTLy/9j7UtyXz5HA4=
-----END SSH SIGNATURE-----
";

pub const DIRECTIVE: &str = "
    736361702d6469726563746976652f310a      # scap-directive/1\\n
    a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    01 02                                   # epoch 1, number 2
    01 02                                   # only two hosts
      03 646231                             #   db1
      04 77656231                           #   web1
    01                                      # promote
    01                                      # by this plan
      d5b4d2fdca8596a54c065a0b57410bb7 94f748360edbcb560fb276fbff528907
    00                                      # no extensions
";

const DIRECTIVE_SIGNATURE: &str = "
    0a3f18489dc81e1a1e8f99d69728a6d6 12c0c58c56f336a8df2d5b9a05dcb81e
    280a201e9ab490267c07e68f970114e5 4c3ccbd9d35473745795109edba0d60e
";

pub const FINALIZATION: &str = "
    736361702d66696e616c697a6174696f6e2f310a # scap-finalization/1\\n
    a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    09 6d772f636f6e666967                   # mw/config
    0a 70726f64756374696f6e                 # production
    03 616c6c                               # all
    07                                      # sequence 7
    00                                      # no extensions
";

const FINALIZATION_SIGNATURE: &str = "
    9c35b9f5ea610352f8f411de7afb307d 3125b113738510e305521050df3425fe
    84067970155ceafd14e980c8aee3b6bc 76790a50888eab750ef96eb017544c04
";

pub const PLAN: &str = "
    736361702d706c616e2f310a                # scap-plan/1\\n
    07 6465706c6f7931                       # the seed: deploy1
    02                                      # two hosts
      03 646231                             #   db1
      01 00 0a000002 fb 3b1c                #   one address: 10.0.0.2:7227
      04 65617374 00                        #   site east, no rack
      00                                    #   in the first wave
      04 77656231                           #   web1
      02 00 0a000003 fb 3b1c                #   two: 10.0.0.3:7227, [fd00::3]:7227
         01 fd000000000000000000000000000003 fb 3b1c
      04 65617374 00
      01
    01                                      # a tree
    08 02                                   # degree 8, fan-out 2
    fb 2c01                                 # random seed 300
    00                                      # no extensions
";

pub const REPORT: &str = "
    736361702d7265706f72742f310a            # scap-report/1\\n
    04 77656231                             # web1
    09 6d772f636f6e666967                   # mw/config
    0a 70726f64756374696f6e                 # production
    01                                      # about this release
      a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    0c                                      # the 12th report
    01 01 02                                # promote, by directive 2 of epoch 1
    03 09 6469736b2066756c6c                # failed: disk full
    fb e803                                 # 1,000 bytes from the seed
    fc a0860100                             # 100,000 from peers
    fd 00f2052a01000000                     # 5,000,000,000 held already
    fb dc05 fb 9001 00                      # fetched in 1.5 s, prepared in 0.4 s, not promoted
    07 01                                   # sequence 7 accepted, and it is
      a275be35e70ecf2f8f90b8413fdea680 6936fd022444d0fc6c362df06102e41a
    00 06                                   # nothing live, sequence 6 finalized
    00                                      # no extensions
";

pub const ROSTER: &str = "
    736361702d726f737465722f310a            # scap-roster/1\\n
    fd 0807060504030201                     # tree 0102030405060708
    40                                      # from the 65th host on
    02                                      # two hosts
      03 646231                             #   db1
      01 00 0a000002 fb 3b1c                #   one address: 10.0.0.2:7227
      04 77656231                           #   web1
      00                                    #   none that is known
    fd 087be07c9b010000                     # expires with the release
    00                                      # no extensions
";

/// Hexadecimal digits in groups, with comments from `#` to the end of the line.
pub fn golden(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .collect();
    hex::decode(digits).unwrap()
}

/// The release with its one signature.
pub fn signed_release() -> Vec<u8> {
    let (payload, signature) = (golden(RELEASE), RELEASE_SIGNATURE.into());
    let one_of_334_bytes = golden("01 fb 4e01");
    [
        golden("fb ff00 # 255 bytes"),
        payload,
        one_of_334_bytes,
        signature,
    ]
    .concat()
}

/// The grant with its signature.
pub fn signed_grant() -> Vec<u8> {
    let (payload, signature) = (golden(GRANT), GRANT_SIGNATURE.into());
    [
        golden("58 # 88 bytes"),
        payload,
        golden("fb 4e01"),
        signature,
    ]
    .concat()
}

/// The directive with its signature.
pub fn signed_directive() -> Vec<u8> {
    let (payload, signature) = (golden(DIRECTIVE), golden(DIRECTIVE_SIGNATURE));
    [golden("61 # 97 bytes"), payload, golden("40"), signature].concat()
}

/// The finalization with its signature.
pub fn signed_finalization() -> Vec<u8> {
    let (payload, signature) = (golden(FINALIZATION), golden(FINALIZATION_SIGNATURE));
    [golden("4f # 79 bytes"), payload, golden("40"), signature].concat()
}

/// The report, with bytes for its certificate and signature that are none.
pub fn report_as_sent() -> (SignedReport, Vec<u8>) {
    let report = SignedReport(LeafSigned {
        payload: golden(REPORT).into(),
        certificate: Bytes::from_static(&[0x30, 0x82]),
        signature: Bytes::from_static(&[0x77; 64]),
    });
    let (payload, certificate) = (golden(REPORT), golden("02 3082"));
    let length = golden("95 # 149 bytes");
    let bytes = [length, payload, certificate, golden("40"), vec![0x77; 64]].concat();
    (report, bytes)
}

/// An object or message without extensions, and with these instead.
pub fn with_extensions(bytes: &[u8], extensions: &str) -> Vec<u8> {
    let (none, before) = bytes.split_last().unwrap();
    assert_eq!(*none, 0, "a count of no extensions comes last");
    [before, &golden(extensions)].concat()
}

/// One that may be ignored: tag 4, two bytes.
pub const EVEN: &str = "01 04 02 abcd";

/// Two, of which the second may not be ignored: tags 4 and 7, no bytes.
pub const ODD: &str = "02 04 00 07 00";

/// Extensions that any version reads.
pub fn any_extensions() -> impl Strategy<Value = Extensions> {
    let map = proptest::collection::btree_map(0..=u16::MAX / 2, vec(any::<u8>(), 0..20), 0..4);
    map.prop_map(|map| {
        let list = map.into_iter().map(|(half, bytes)| Extension {
            tag: half * 2,
            bytes: bytes.into(),
        });
        Extensions::try_from(list.collect::<Vec<_>>()).unwrap()
    })
}

/// Ways to damage bytes: each sets one, cuts there, or repeats one.
pub type Damages = Vec<(Index, u8, u8)>;

pub fn any_damages() -> impl Strategy<Value = Damages> {
    vec(any::<(Index, u8, u8)>(), 1..4)
}

pub fn damage(bytes: &[u8], damages: &Damages) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, way, value) in damages {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match way % 4 {
            0 | 1 => bytes[at] = *value,
            2 => bytes.truncate(at),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    bytes
}
