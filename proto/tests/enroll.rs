//! The bytes of a claim and its answer, and of a token's text.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use scap_proto::{
    codec::{CodecError, Extensible},
    enroll::{Answer, CLAIM_BYTES_MAX, Claim, Token},
    frame::{self, FrameError},
    wire::Envelope,
};

const TOKEN: &str = "scap-token-1:prod:\
    1111111111111111111111111111111111111111111111111111111111111111:\
    000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn claim() -> Claim {
    let token: Token = TOKEN.parse().unwrap();
    Claim {
        secret: token.secret().clone(),
        request: "req".into(),
    }
}

async fn read(mut bytes: &[u8], bytes_max: u32) -> Result<Option<Envelope<Claim>>, FrameError> {
    frame::read_short_message(&mut bytes, bytes_max).await
}

#[tokio::test]
async fn a_claim_and_its_answers_are_these_bytes() {
    let golden = [
        &hex::decode("25000000").unwrap()[..], // 37 bytes
        &(0..32).collect::<Vec<u8>>(),         // the secret, without a length
        b"\x03req",                            // the request
        b"\x00",                               // no extensions
    ]
    .concat();
    let envelope = Envelope::from(claim());
    assert_eq!(frame::encode_frame(&envelope).unwrap(), golden);
    let found = read(&golden, CLAIM_BYTES_MAX).await.unwrap().unwrap();
    assert_eq!(found.message, claim());

    let given = Envelope::from(Answer::Identity(Bytes::from_static(b"id")));
    let frame = frame::encode_frame(&given).unwrap();
    assert_eq!(frame, b"\x05\0\0\0\x00\x02id\x00");
    let refused = Envelope::from(Answer::Refused);
    let frame = frame::encode_frame(&refused).unwrap();
    assert_eq!(frame, b"\x02\0\0\0\x01\x00");
}

#[tokio::test]
async fn a_claim_grows_as_all_messages_do_and_is_read_whole_or_not_at_all() {
    let frame = frame::encode_frame(&Envelope::from(claim())).unwrap();
    for (tag, is_taken) in [(4, true), (7, false)] {
        let mut grown = Envelope::from(claim());
        grown.extensions = grown
            .extensions
            .with(tag, Bytes::from_static(b"x"))
            .unwrap();
        let frame = frame::encode_frame(&grown).unwrap();
        match read(&frame, CLAIM_BYTES_MAX).await {
            Ok(Some(found)) if is_taken => assert!(found.extensions().get(tag).is_some()),
            Err(FrameError::Codec(CodecError::Extension(_))) if !is_taken => {}
            other => panic!("{tag}: {other:?}"),
        }
    }
    for end in 1..frame.len() {
        assert!(read(&frame[..end], CLAIM_BYTES_MAX).await.is_err(), "{end}");
    }
    assert!(matches!(
        read(&frame, 36).await,
        Err(FrameError::TooLong(37))
    ));
}

#[test]
fn a_token_of_this_text_has_this_hash_for_ever() {
    let token: Token = TOKEN.parse().unwrap();
    assert_eq!(token.to_text().as_str(), TOKEN);
    let hash = token.secret().hash().to_string();
    assert_eq!(
        hash,
        "4a90a7fba78fb3a7a900457812952234600b7e0dba1ced5403165f55ccb1d225"
    );
    assert_eq!(token.secret().hash().id().to_string(), hash[..16]);
}
