//! The token, its secret, and the hash by which a coordinator knows it.

use std::{
    fmt,
    io::{self, Read},
    path::Path,
    str::FromStr,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::identity::{AuthorityPin, FileError, FleetName, read_secret_file};

/// Longest text of a token, in bytes: its kind, a fleet's name, and two times 64 digits.
pub const TOKEN_BYTES_MAX: usize = KIND.len() + FleetName::BYTES_MAX + 2 * 65;

/// What a token begins with: its kind and version. Scanners for leaked secrets can look for it.
const KIND: &str = "scap-token-1:";

/// Bytes of a secret. Nobody guesses one of 2^256, however long the coordinator listens.
const SECRET_BYTES: usize = 32;

/// What one host needs to be enrolled: which fleet, by which authority, and a secret.
///
/// As text it is `scap-token-1:<fleet>:<fingerprint of the authority>:<secret>`. `Debug` shows the secret of none, and
/// there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    fleet: FleetName,
    pin: AuthorityPin,
    secret: TokenSecret,
}

impl Token {
    /// A new one, from the system's randomness.
    ///
    /// # Panics
    /// Where the system has no randomness to give.
    pub fn generate(fleet: FleetName, pin: AuthorityPin) -> Self {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut *secret).expect("the system gives randomness");
        Self {
            fleet,
            pin,
            secret: TokenSecret(secret),
        }
    }

    /// Reads a file that holds one, and white space around it, and that only its owner may read.
    ///
    /// # Errors
    /// [`ReadTokenError`].
    pub fn load(path: &Path) -> Result<Self, ReadTokenError> {
        Ok(read_secret_file(path)?.trim().parse()?)
    }

    /// Reads one, and white space around it, to the end of what `from` gives.
    ///
    /// # Errors
    /// [`ReadTokenError`].
    pub fn read(from: impl Read) -> Result<Self, ReadTokenError> {
        let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_BYTES_MAX));
        let mut from = from.take(2 * TOKEN_BYTES_MAX as u64);
        from.read_to_string(&mut text)
            .map_err(ReadTokenError::Read)?;
        Ok(text.trim().parse()?)
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The authority of the fleet.
    pub fn pin(&self) -> AuthorityPin {
        self.pin
    }

    /// The secret.
    pub fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// Its text, which is wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex::encode(*self.secret.0));
        Zeroizing::new(format!(
            "{KIND}{}:{}:{}",
            self.fleet,
            self.pin,
            secret.as_str()
        ))
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let rest = text.strip_prefix(KIND).ok_or(ParseTokenError::Kind)?;
        let mut parts = rest.split(':');
        let mut next = || parts.next().ok_or(ParseTokenError::Parts);
        let (fleet, pin, secret) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(ParseTokenError::Parts);
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        hex::decode_to_slice(secret, &mut *bytes).map_err(|_| ParseTokenError::Secret)?;
        Ok(Self {
            fleet: fleet.parse().map_err(|_| ParseTokenError::Fleet)?,
            pin: pin.parse().map_err(|_| ParseTokenError::Pin)?,
            secret: TokenSecret(bytes),
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, {:?})", self.fleet, self.pin)
    }
}

/// Why no token could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadTokenError {
    /// The file, in particular where others may read it.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was read from.
    #[error("read a token")]
    Read(#[source] io::Error),
    /// It is none.
    #[error("this is no token")]
    Parse(#[from] ParseTokenError),
}

/// Why a text is not a token. None says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// It does not begin like one.
    #[error("it does not begin with `{KIND}`")]
    Kind,
    /// It has too few parts, or too many.
    #[error("it has not the three parts of a token after `{KIND}`: was it cut off?")]
    Parts,
    /// The fleet.
    #[error("its first part is no fleet's name")]
    Fleet,
    /// The authority's fingerprint.
    #[error("its second part is not the fingerprint of an authority")]
    Pin,
    /// The secret.
    #[error("its third part is not a secret of 64 hex digits: was it cut off?")]
    Secret,
}

/// The secret part of a token. It is wiped from memory when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl TokenSecret {
    /// What a coordinator keeps of it. No salt and no slowness are needed where what is hashed is as random.
    pub fn hash(&self) -> TokenHash {
        TokenHash(blake3::derive_key(HASH_CONTEXT, &*self.0))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

impl Serialize for TokenSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().try_into().map_or_else(
            |_| unreachable!("a secret has its length"),
            |bytes: [u8; SECRET_BYTES]| bytes.serialize(serializer),
        )
    }
}

impl<'de> Deserialize<'de> for TokenSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; SECRET_BYTES]>::deserialize(deserializer).map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

/// The hash of a token's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// What a token is called where people read: it says nothing of the secret.
    pub fn id(&self) -> TokenId {
        let mut id = [0; TokenId::BYTES];
        id.copy_from_slice(&self.0[..TokenId::BYTES]);
        TokenId(id)
    }

    /// Whether they are the same, in a time that does not depend on where they differ.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl FromStr for TokenHash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The name of a token: the first 8 bytes of its hash, in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; Self::BYTES]);

impl TokenId {
    const BYTES: usize = 8;
}

impl FromStr for TokenId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

const HASH_CONTEXT: &str = "scap 2026-11-30 hash of the secret of an enrolment token";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn token(fleet: &str) -> Token {
        Token::generate(fleet.parse().unwrap(), AuthorityPin::of(b"authority"))
    }

    #[test]
    fn a_token_is_read_back_from_its_text_and_its_secret_is_not_shown() {
        let longest = "f".repeat(FleetName::BYTES_MAX);
        for fleet in ["prod", longest.as_str()] {
            let token = token(fleet);
            let text = token.to_text();
            assert!(text.len() <= TOKEN_BYTES_MAX, "{}", text.len());
            assert_eq!(text.parse::<Token>().unwrap(), token);
            let secret = text.rsplit(':').next().unwrap();
            let shown = format!("{token:?} {:?} {}", token.secret(), token.secret().hash());
            assert!(!shown.contains(secret), "{shown}");
            assert!(shown.contains(&token.secret().hash().id().to_string()));
        }
    }

    #[test]
    fn a_text_that_is_no_token_is_refused_without_being_repeated() {
        let text = token("prod").to_text();
        let secret = text.rsplit(':').next().unwrap().to_owned();
        for (bad, expected) in [
            (String::new(), ParseTokenError::Kind),
            (text.replace("token-1", "token-2"), ParseTokenError::Kind),
            (format!("{}:x", text.as_str()), ParseTokenError::Parts),
            (text[..60].to_owned(), ParseTokenError::Parts),
            (text[..text.len() - 1].to_owned(), ParseTokenError::Secret),
            (text.replace("prod", "p/rod"), ParseTokenError::Fleet),
            (text.replace("prod:", "prod:0"), ParseTokenError::Pin),
        ] {
            let error = bad.parse::<Token>().unwrap_err();
            assert_eq!(error, expected, "{bad}");
            assert!(!error.to_string().contains(&secret));
        }
    }

    #[test]
    fn a_token_is_read_from_a_file_of_its_owner_alone_or_from_what_is_piped() {
        use std::{fs, os::unix::fs::PermissionsExt};

        let directory = tempfile::tempdir().unwrap();
        let (path, token) = (directory.path().join("token"), token("prod"));
        let text = format!(" {}\r\n", token.to_text().as_str());
        fs::write(&path, &text).unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        let error = Token::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("has mode 640, and it holds a secret"),
            "{error}"
        );
        mode(0o400);
        assert_eq!(Token::load(&path).unwrap(), token);
        assert_eq!(Token::read(text.as_bytes()).unwrap(), token);
        let endless = Token::read(io::repeat(b'x'));
        assert!(matches!(endless, Err(ReadTokenError::Parse(_))));
    }

    #[test]
    fn only_the_same_secret_has_the_same_hash() {
        let (one, other) = (token("prod"), token("prod"));
        let hash = one.secret().hash();
        assert!(hash.is(&one.to_text().parse::<Token>().unwrap().secret().hash()));
        assert!(!hash.is(&other.secret().hash()));
        assert_eq!(hash.to_string().parse::<TokenHash>().unwrap(), hash);
        let id = hash.id();
        assert_eq!(id.to_string().parse::<TokenId>().unwrap(), id);
    }
}
