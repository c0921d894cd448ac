//! One line of an `allowed_signers` file.

use std::fmt;

use jiff::{Timestamp, civil, tz::TimeZone};
use ssh_key::{PublicKey, public::KeyData};

use super::pattern;

/// A line as it was read.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) principals: String,
    namespaces: Option<String>,
    /// In seconds since 1970, itself included.
    valid_after: Option<i64>,
    /// In seconds since 1970, itself included.
    valid_before: Option<i64>,
    pub(super) key: KeyData,
}

impl Line {
    /// Reads a line that is neither empty nor a comment.
    pub(super) fn parse(line: &str) -> Result<Self, LineProblem> {
        let (principals, rest) = match line.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or(LineProblem::Quote)?,
            None => line.split_once(BLANK).ok_or(LineProblem::Key)?,
        };
        let rest = rest.trim_start_matches(BLANK);
        let (options, key) = match parse_key(rest) {
            Some(key) => ("", key),
            None => {
                let (options, rest) = split_options(rest)?;
                let key = parse_key(rest.trim_start_matches(BLANK));
                (options, key.ok_or(LineProblem::Key)?)
            }
        };
        let mut line = Line {
            principals: principals.into(),
            namespaces: None,
            valid_after: None,
            valid_before: None,
            key,
        };
        parse_options(options, &mut line)?;
        match (line.valid_after, line.valid_before) {
            (Some(after), Some(before)) if before <= after => Err(LineProblem::NeverValid),
            _ => Ok(line),
        }
    }

    /// The same, at any time.
    pub(super) fn without_times(self) -> Self {
        Self {
            valid_after: None,
            valid_before: None,
            ..self
        }
    }

    /// Whether its key may sign in `namespace` at this time, in seconds since 1970.
    pub(super) fn allows(&self, namespace: &str, now_secs: i64) -> Result<(), NotAllowed> {
        if let Some(namespaces) = &self.namespaces
            && !pattern::matches_list(namespaces, namespace)
        {
            return Err(NotAllowed::Namespace {
                allowed: namespaces.clone(),
                found: namespace.into(),
            });
        }
        match (self.valid_after, self.valid_before) {
            (Some(after), _) if now_secs < after => Err(NotAllowed::Before(Date(after))),
            (_, Some(before)) if now_secs > before => Err(NotAllowed::After(Date(before))),
            _ => Ok(()),
        }
    }
}

/// A line that allows `key` to sign in the namespaces that match `namespaces`, an OpenSSH pattern
/// list. Neither text may hold white space, quotes or line ends.
pub fn allowed_signers_line(principal: &str, namespaces: &str, key: &PublicKey) -> String {
    let key = PublicKey::new(key.key_data().clone(), "")
        .to_openssh()
        .expect("a parsed key has a text");
    format!("{principal} namespaces=\"{namespaces}\" {key}")
}

/// What may stand between fields.
pub(super) const BLANK: [char; 3] = [' ', '\t', '\r'];

/// A key type and its base64, with any comment after it.
fn parse_key(text: &str) -> Option<KeyData> {
    let mut words = text.split(BLANK).filter(|word| !word.is_empty());
    let (kind, base64) = (words.next()?, words.next()?);
    let key = PublicKey::from_openssh(&format!("{kind} {base64}")).ok()?;
    Some(key.key_data().clone())
}

/// Splits at the first blank outside quotes.
fn split_options(text: &str) -> Result<(&str, &str), LineProblem> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if !escaped => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Ok(text.split_at(index)),
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
    }
    Err(if quoted {
        LineProblem::Quote
    } else {
        LineProblem::Key
    })
}

fn parse_options(mut rest: &str, line: &mut Line) -> Result<(), LineProblem> {
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let name = name.to_ascii_lowercase();
        if name == "cert-authority" {
            return Err(LineProblem::CertAuthority);
        }
        let Some(value) = after.strip_prefix('=') else {
            return Err(LineProblem::Option(name));
        };
        let (value, after) = unquote(value)?;
        let is_repeated = match name.as_str() {
            "namespaces" => line.namespaces.replace(value).is_some(),
            "valid-after" => line.valid_after.replace(parse_time(&value)?).is_some(),
            "valid-before" => line.valid_before.replace(parse_time(&value)?).is_some(),
            _ => return Err(LineProblem::Option(name)),
        };
        if is_repeated {
            return Err(LineProblem::Repeated(name));
        }
        rest = match after.strip_prefix(',') {
            Some(next) if !next.is_empty() => next,
            None if after.is_empty() => after,
            _ => return Err(LineProblem::Option(after.into())),
        };
    }
    Ok(())
}

/// The text between the quotes that `text` must start with, where `\"` stands for a quote, and what
/// follows.
fn unquote(text: &str) -> Result<(String, &str), LineProblem> {
    let inner = text.strip_prefix('"').ok_or(LineProblem::Quote)?;
    let mut value = String::new();
    let mut chars = inner.char_indices().peekable();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &inner[index + 1..])),
            '\\' if chars.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            _ => value.push(char),
        }
    }
    Err(LineProblem::Quote)
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, in UTC with a final `Z` and else in the system's
/// time zone; in seconds since 1970.
fn parse_time(text: &str) -> Result<i64, LineProblem> {
    let bad = || LineProblem::Time(text.escape_debug().take(32).collect());
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let part = |from: usize, to: usize| -> Result<i8, LineProblem> {
        let digits = digits.get(from..to).unwrap_or("0");
        digits.parse().map_err(|_| bad())
    };
    let year: i16 = digits[..4].parse().map_err(|_| bad())?;
    civil::DateTime::new(
        year,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?,
        0,
    )
    .and_then(|civil| civil.to_zoned(zone))
    .map(|zoned| zoned.timestamp().as_second())
    .map_err(|_| bad())
}

/// A line of an `allowed_signers` file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {problem}")]
pub struct LineError {
    /// Which, from 1.
    pub number: usize,
    /// What about it.
    pub problem: LineProblem,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// There is no public key after the principals and options.
    #[error("no public key (expected: principals [options] key-type base64)")]
    Key,
    /// A quote is missing: values of options are quoted.
    #[error("a quote is missing (expected: namespaces=\"pattern,pattern\")")]
    Quote,
    /// It allows certificates, which we do not read.
    #[error("cert-authority is not supported: list the keys themselves")]
    CertAuthority,
    /// An option that is not known.
    #[error("unknown option `{0}`")]
    Option(String),
    /// An option that is given twice.
    #[error("option `{0}` is given twice")]
    Repeated(String),
    /// A time that is none.
    #[error("`{0}` is not a time: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z for UTC")]
    Time(String),
    /// It is valid at no time.
    #[error("valid-before is not after valid-after")]
    NeverValid,
}

/// Why an allowed signer's signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Not in this namespace.
    #[error("who may sign in `{allowed}` and not in `{found}`")]
    Namespace {
        /// Where it may sign.
        allowed: String,
        /// Where it signed.
        found: String,
    },
    /// Not yet.
    #[error("who may sign from {0} on")]
    Before(Date),
    /// No longer.
    #[error("who might sign until {0}")]
    After(Date),
}

/// A second, shown in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.0) {
            Ok(date) => date.fmt(f),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}
