//! `token`: what lets hosts enrol themselves, one each.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scap_agent::clock;
use scap_proto::{enroll::Token, id::NodeId, release::Environment, release::UnixMillis};
use serde_json::{Value, json};

use super::{CliError, StateArgs, exit};
use crate::{
    enroll::{TokenError, TokenRecord},
    state::{StateDirectory, StateError},
};

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token by which one host enrols itself, and print it, this once
    Create(CreateArgs),
    /// List the tokens that were made, without their secrets
    List(ListArgs),
    /// Take back a token that no host has used
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The host that it is for, as the fleet file says it
    host: NodeId,
    #[command(flatten)]
    state: StateArgs,
    /// An environment that the host will be in; may be repeated [default: production]
    #[arg(long, value_name = "ENV")]
    environment: Vec<Environment>,
    /// How long it is good: seconds, or a number with `m`, `h` or `d` behind it, at most 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    expires: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The token's id, as `list` says it, or a host, for all of its
    which: String,
    #[command(flatten)]
    state: StateArgs,
}

/// Longest life of a token: an image that is older is made anew. What lies about for longer is found by somebody else.
const EXPIRES_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn run(args: TokenArgs) -> Result<u8, CliError> {
    match args.command {
        TokenCommand::Create(args) => create(&args),
        TokenCommand::List(args) => list(&args),
        TokenCommand::Revoke(args) => revoke(&args),
    }
}

fn create(args: &CreateArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    let (fleet, pin) = state
        .authority_pin()
        .map_err(|error| failed_in_state("create a token", &error))?;
    let token = Token::generate(fleet, pin);
    let life = u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX);
    let kept = state
        .tokens()
        .add(&token, &args.host, &args.environment, clock::now(), life);
    let record = kept.map_err(|error| failed("create a token", &error))?;
    let text = token.to_text();
    if args.json {
        let mut object = view(&record);
        object["schema"] = "scap.token/1".into();
        object["token"] = text.as_str().into();
        println!("{object}");
        return Ok(exit::DONE);
    }
    eprintln!(
        "token {} for {}, good once, until {}",
        record.id(),
        record.host,
        timestamp(record.expires)
    );
    eprintln!("it is not shown again; on the host: scap-agent enroll --token-file FILE");
    // Alone on standard output, so that it can go into a file.
    println!("{}", text.as_str());
    Ok(exit::DONE)
}

fn list(args: &ListArgs) -> Result<u8, CliError> {
    let tokens = open(&args.state)?.tokens().list();
    let tokens = tokens.map_err(|error| failed("list the tokens", &error))?;
    if args.json {
        let tokens: Vec<_> = tokens.iter().map(view).collect();
        println!("{}", json!({"schema": "scap.tokens/1", "tokens": tokens}));
        return Ok(exit::DONE);
    }
    for record in &tokens {
        let used = record.used.as_ref();
        let when = used.map_or(record.expires, |used| used.at);
        let word = record.state(clock::now()).as_str();
        let of = if used.is_some() { "at" } else { "until" };
        let awaited = match used {
            Some(_) if record.is_awaited(clock::now()) => {
                "  the host has not said that it has its identity"
            }
            _ => "",
        };
        println!(
            "{}  {}  {word}  made {}  {of} {}{awaited}",
            record.id(),
            record.host,
            timestamp(record.made),
            timestamp(when),
        );
    }
    Ok(exit::DONE)
}

fn revoke(args: &RevokeArgs) -> Result<u8, CliError> {
    let tokens = open(&args.state)?.tokens();
    let revoked = tokens.revoke(&args.which, clock::now()).map_err(|error| {
        let hint = "`scap-coordinator token list` says which there are; one that was used is an identity by now";
        failed("revoke a token", &error).hint(hint.to_owned())
    })?;
    for record in revoked {
        println!("revoked token {} of {}", record.id(), record.host);
    }
    Ok(exit::DONE)
}

fn view(record: &TokenRecord) -> Value {
    json!({
        "id": record.id().to_string(),
        "host": record.host,
        "environments": record.environments,
        "state": record.state(clock::now()).as_str(),
        "made": timestamp(record.made),
        "expires": timestamp(record.expires),
        "revoked": record.revoked.map(timestamp),
        "used": record.used.as_ref().map(|used| json!({
            "at": timestamp(used.at),
            "key": used.key,
            "confirmed": used.confirmed.map(timestamp),
        })),
    })
}

fn open(args: &StateArgs) -> Result<StateDirectory, CliError> {
    StateDirectory::open(&args.state).map_err(|error| failed_in_state("open the state", &error))
}

fn failed_in_state(doing: &str, error: &StateError) -> CliError {
    CliError::failed(doing, error).hint(error.hint())
}

fn failed(doing: &str, error: &TokenError) -> CliError {
    CliError::failed(doing, error)
}

fn timestamp(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    format!("{time:.0}")
}

/// A number of seconds, or of what its last letter says.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(b'd') => (&text[..text.len() - 1], 24 * 3600),
        _ => (text, 1),
    };
    let number: Option<u64> = number.parse().ok();
    let seconds = number.and_then(|number| number.checked_mul(factor));
    let seconds =
        seconds.ok_or("a number of seconds, or one with `s`, `m`, `h` or `d` behind it")?;
    let time = Duration::from_secs(seconds);
    match (Duration::from_secs(1)..=EXPIRES_MAX).contains(&time) {
        true => Ok(time),
        false => Err("1 s to 30 d are allowed".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds_and_end_at_thirty_days() {
        for (text, seconds) in [
            ("90", 90),
            ("5s", 5),
            ("10m", 600),
            ("1h", 3600),
            ("30d", 2_592_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "0",
            "31d",
            "h",
            "-1",
            "1w",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
