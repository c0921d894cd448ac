//! How much of its host's network the agent may use: what the configuration says, by time of day, and what is asked over it.

use std::{fmt, str::FromStr};

use scap_proto::{
    release::UnixMillis,
    transport::{Rate, RateCaps, RateError},
};
use serde::{Deserialize, Serialize};

/// One cap: a rate, or expressly none. In files and JSON a number of Mbit/s or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CapText", into = "CapText")]
pub struct Cap(pub Option<Rate>);

/// Which traffic a cap is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// All that leaves.
    Upload,
    /// All that arrives.
    Download,
    /// What goes to other sites.
    BorderUpload,
    /// What comes from other sites.
    BorderDownload,
}

/// Some of the caps; about the others nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Caps {
    /// On all that leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_mbit: Option<Cap>,
    /// On all that arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_mbit: Option<Cap>,
    /// On what goes to other sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border_upload_mbit: Option<Cap>,
    /// On what comes from other sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border_download_mbit: Option<Cap>,
}

/// The table `[limits]` of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    upload_mbit: Option<Cap>,
    download_mbit: Option<Cap>,
    border_upload_mbit: Option<Cap>,
    border_download_mbit: Option<Cap>,
    /// The first that the time is in counts; what it does not say is as above.
    at: Vec<Span>,
}

/// A part of each day, and the caps that count in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Span {
    from: DayTime,
    to: DayTime,
    upload_mbit: Option<Cap>,
    download_mbit: Option<Cap>,
    border_upload_mbit: Option<Cap>,
    border_download_mbit: Option<Cap>,
}

/// A minute of the day in UTC, which no summer time shifts: `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct DayTime {
    minutes: u64,
}

/// Where a cap, or that there is none, comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// `[limits]`.
    Config,
    /// A `[[limits.at]]`.
    TimeOfDay,
    /// A command, until the agent is started again.
    Command,
}

impl Limits {
    /// The cap on some traffic at that time, where `asked` stands over the configuration.
    pub fn cap(&self, of: Direction, asked: &Caps, now: UnixMillis) -> (Option<Rate>, Source) {
        let span = self.at.iter().find(|span| span.contains(now));
        let said = [
            (asked.get(of), Source::Command),
            (span.and_then(|it| it.caps().get(of)), Source::TimeOfDay),
            (self.caps().get(of), Source::Config),
        ];
        let first = said
            .into_iter()
            .find_map(|(cap, source)| Some((cap?.0, source)));
        first.unwrap_or((None, Source::Default))
    }

    /// All caps at that time.
    pub fn caps_at(&self, asked: &Caps, now: UnixMillis) -> RateCaps {
        let cap = |of| self.cap(of, asked, now).0;
        RateCaps {
            upload: cap(Direction::Upload),
            download: cap(Direction::Download),
            border_upload: cap(Direction::BorderUpload),
            border_download: cap(Direction::BorderDownload),
        }
    }

    fn caps(&self) -> Caps {
        Caps {
            upload_mbit: self.upload_mbit,
            download_mbit: self.download_mbit,
            border_upload_mbit: self.border_upload_mbit,
            border_download_mbit: self.border_download_mbit,
        }
    }
}

impl Caps {
    /// What is said here over what is said in `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            upload_mbit: self.upload_mbit.or(below.upload_mbit),
            download_mbit: self.download_mbit.or(below.download_mbit),
            border_upload_mbit: self.border_upload_mbit.or(below.border_upload_mbit),
            border_download_mbit: self.border_download_mbit.or(below.border_download_mbit),
        }
    }

    fn get(&self, of: Direction) -> Option<Cap> {
        match of {
            Direction::Upload => self.upload_mbit,
            Direction::Download => self.download_mbit,
            Direction::BorderUpload => self.border_upload_mbit,
            Direction::BorderDownload => self.border_download_mbit,
        }
    }
}

impl Span {
    /// Until `to`, exclusive; over midnight where that is earlier than `from`, all day where it is the same.
    fn contains(&self, now: UnixMillis) -> bool {
        let now = DayTime::of(now);
        if self.from < self.to {
            (self.from..self.to).contains(&now)
        } else {
            now >= self.from || now < self.to
        }
    }

    fn caps(&self) -> Caps {
        Caps {
            upload_mbit: self.upload_mbit,
            download_mbit: self.download_mbit,
            border_upload_mbit: self.border_upload_mbit,
            border_download_mbit: self.border_download_mbit,
        }
    }
}

impl DayTime {
    fn of(time: UnixMillis) -> Self {
        Self {
            minutes: time.0 / 60_000 % (24 * 60),
        }
    }
}

impl TryFrom<String> for DayTime {
    type Error = DayTimeError;

    fn try_from(text: String) -> Result<Self, DayTimeError> {
        let parse = |digits: &str, end: u64| {
            let is_two_digits = digits.len() == 2 && digits.bytes().all(|it| it.is_ascii_digit());
            let number: Option<u64> = digits.parse().ok();
            number.filter(|it| is_two_digits && *it < end)
        };
        let (hours, minutes) = text.split_once(':').unwrap_or_default();
        match (parse(hours, 24), parse(minutes, 60)) {
            (Some(hours), Some(minutes)) => Ok(Self {
                minutes: hours * 60 + minutes,
            }),
            _ => Err(DayTimeError { text }),
        }
    }
}

/// Not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time of day: HH:MM from 00:00 to 23:59, in UTC")]
struct DayTimeError {
    text: String,
}

impl FromStr for Cap {
    type Err = CapError;

    fn from_str(text: &str) -> Result<Self, CapError> {
        match text {
            NONE => Ok(Self(None)),
            _ => Ok(Self(Some(text.parse()?))),
        }
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{rate}"),
            None => f.write_str(NONE),
        }
    }
}

/// Neither a rate nor none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}, or `none`")]
pub struct CapError(#[from] RateError);

const NONE: &str = "none";

/// A cap as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum CapText {
    Mbit(i64),
    Word(String),
}

impl TryFrom<CapText> for Cap {
    type Error = CapError;

    fn try_from(text: CapText) -> Result<Self, CapError> {
        match text {
            CapText::Mbit(mbit) => {
                let rate = u32::try_from(mbit).ok().and_then(Rate::from_mbit);
                Ok(Self(Some(rate.ok_or(RateError)?)))
            }
            CapText::Word(word) if word == NONE => Ok(Self(None)),
            CapText::Word(_) => Err(RateError.into()),
        }
    }
}

impl From<Cap> for CapText {
    fn from(Cap(rate): Cap) -> Self {
        match rate {
            Some(rate) => Self::Mbit(rate.mbit().into()),
            None => Self::Word(NONE.to_owned()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(hours: u64, minutes: u64) -> UnixMillis {
        // Some day, and some seconds into the minute.
        UnixMillis(20_000 * 86_400_000 + (hours * 60 + minutes) * 60_000 + 59_999)
    }

    fn mbit(mbit: u32) -> Option<Rate> {
        Some(Rate::from_mbit(mbit).unwrap())
    }

    #[test]
    fn the_first_span_that_the_time_is_in_stands_over_the_rest_and_a_command_over_all() {
        let limits: Limits = toml::from_str(
            "upload-mbit = 50\ndownload-mbit = 100\n\
             [[at]]\nfrom = '22:00'\nto = '06:00'\nupload-mbit = 200\n\
             [[at]]\nfrom = '05:00'\nto = '07:30'\nupload-mbit = 'none'\nborder-upload-mbit = 20",
        )
        .unwrap();
        let asked = Caps::default();
        let caps = |hours, minutes| limits.caps_at(&asked, at(hours, minutes));
        for (hours, minutes, upload, border) in [
            (21, 59, mbit(50), None),
            (22, 0, mbit(200), None),
            (0, 0, mbit(200), None),
            (5, 59, mbit(200), None),
            (6, 0, None, mbit(20)),
            (7, 29, None, mbit(20)),
            (7, 30, mbit(50), None),
        ] {
            let expected = RateCaps {
                upload,
                download: mbit(100),
                border_upload: border,
                border_download: None,
            };
            assert_eq!(caps(hours, minutes), expected, "{hours}:{minutes}");
        }
        let cap = |of, asked: &Caps| limits.cap(of, asked, at(6, 0));
        assert_eq!(cap(Direction::Upload, &asked), (None, Source::TimeOfDay));
        assert_eq!(
            cap(Direction::Download, &asked),
            (mbit(100), Source::Config)
        );
        assert_eq!(
            cap(Direction::BorderDownload, &asked),
            (None, Source::Default)
        );
        let asked = Caps {
            upload_mbit: Some(Cap(mbit(5))),
            ..Caps::default()
        };
        let over = Caps {
            download_mbit: Some(Cap(None)),
            ..Caps::default()
        }
        .over(asked);
        assert_eq!(cap(Direction::Upload, &over), (mbit(5), Source::Command));
        assert_eq!(cap(Direction::Download, &over), (None, Source::Command));
    }

    #[test]
    fn what_is_no_cap_or_no_time_is_refused_by_its_line() {
        for text in [
            "upload-mbit = 0",
            "upload-mbit = -1",
            "upload-mbit = 800001",
            "upload-mbit = 'all'",
            "upload-mbit = 1.5",
            "upload = 1",
            "[[at]]\nfrom = '22:00'",
            "[[at]]\nfrom = '24:00'\nto = '06:00'",
            "[[at]]\nfrom = '+1:00'\nto = '06:00'",
            "[[at]]\nfrom = '22:60'\nto = '06:00'",
            "[[at]]\nfrom = '22:00'\nto = '6'",
        ] {
            let error = toml::from_str::<Limits>(text).unwrap_err();
            assert!(error.to_string().contains("line "), "{text}: {error}");
        }
    }

    #[test]
    fn caps_are_sent_as_they_are_written() {
        let caps = Caps {
            upload_mbit: Some("20".parse().unwrap()),
            border_download_mbit: Some("none".parse().unwrap()),
            ..Caps::default()
        };
        let json = serde_json::to_string(&caps).unwrap();
        assert_eq!(json, r#"{"upload-mbit":20,"border-download-mbit":"none"}"#);
        assert_eq!(serde_json::from_str::<Caps>(&json).unwrap(), caps);
        for text in ["0", "-1", "fast", "", "1e3"] {
            assert!(text.parse::<Cap>().is_err(), "{text}");
        }
    }
}
