//! `--dead-man`: after how long hosts go back that hear of nobody.

use std::time::Duration;

use scap_proto::release::Directive;

use super::DeployArgs;
use crate::{cli::CliError, fleet::Inventory};

/// A number of seconds, or of what its last letter says.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "h" => 3600,
        "m" => 60,
        _ => 1,
    };
    let number: Option<u64> = number.parse().ok();
    let seconds = number.and_then(|number| number.checked_mul(factor));
    let seconds = seconds.ok_or("a number of seconds, or one with `s`, `m` or `h` behind it")?;
    check(Duration::from_secs(seconds))
}

/// What a flag says, else the fleet file.
pub(super) fn of(args: &DeployArgs, fleet: &Inventory) -> Result<Option<Duration>, CliError> {
    let of_file = || fleet.rollout.dead_man.map(Duration::from_secs).map(check);
    match (args.how.dead_man, of_file()) {
        (Some(time), _) => Ok(Some(time)),
        (None, None) => Ok(None),
        (None, Some(Ok(time))) => Ok(Some(time)),
        (None, Some(Err(problem))) => Err(CliError::usage(format!(
            "read `dead_man` of [rollout] in {}: {problem}",
            args.fleet.display()
        ))
        .hint("leave it out where hosts are to keep what they were told last".to_owned())),
    }
}

fn check(time: Duration) -> Result<Duration, String> {
    let (least, most) = (Directive::DEAD_MAN_MIN, Directive::DEAD_MAN_MAX);
    match (least..=most).contains(&time) {
        true => Ok(time),
        false => Err(format!(
            "{} s, and {} s to {} s are allowed",
            time.as_secs(),
            least.as_secs(),
            most.as_secs()
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_of_seconds_minutes_or_hours_and_within_its_limits() {
        for (text, seconds) in [("10", 10), ("90s", 90), ("10m", 600), ("24h", 86_400)] {
            assert_eq!(parse(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["9", "25h", "86401"] {
            assert!(parse(text).unwrap_err().contains("are allowed"), "{text}");
        }
        for text in ["", "m", "ten", "10d", "-1", "99999999999999999999h"] {
            assert!(parse(text).unwrap_err().contains("a number"), "{text}");
        }
    }
}
