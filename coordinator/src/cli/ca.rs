//! `ca`: moving the fleet to a new authority, and where that is.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use scap_agent::clock;
use scap_proto::{id::NodeId, release::TrustStanding};
use serde_json::{Value, json};

use super::{
    CliError, exit,
    trusted::{Outcome, TellArgs, Teller, date, revoked_json, state_error},
};
use crate::state::Rotation;

#[derive(Debug, Args)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Say which authorities count, and of each host of the fleet file which it believes and which issued its certificate
    Status(TellArgs),
    /// Move the fleet to a new authority, a step at a time: --begin, --switch, --finish. Deployments go on in between
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
#[group(id = "step", required = true, multiple = false, args = ["begin", "switch", "finish"])]
struct RotateArgs {
    /// Make the new authority, and have all hosts believe it beside the old one
    #[arg(long)]
    begin: bool,
    /// Issue certificates from the new authority from now on, first this coordinator's own. Then renew those of the hosts
    #[arg(long)]
    switch: bool,
    /// Have all hosts believe the new authority alone: who has a certificate of the old one is cut off
    #[arg(long)]
    finish: bool,
    /// Do it though hosts are not ready for it: they must be enrolled again
    #[arg(long, conflicts_with = "begin")]
    force: bool,
    #[command(flatten)]
    tell: TellArgs,
}

pub(super) async fn run(args: CaArgs) -> Result<u8, CliError> {
    match args.command {
        CaCommand::Status(args) => status(&args).await,
        CaCommand::Rotate(args) if args.begin => begin(&args).await,
        CaCommand::Rotate(args) if args.switch => switch(&args).await,
        CaCommand::Rotate(args) => finish(&args).await,
    }
}

async fn begin(args: &RotateArgs) -> Result<u8, CliError> {
    let teller = Teller::open(&args.tell)?;
    let begun = teller
        .state
        .begin_rotation(teller.identity.trust(), clock::now());
    begun.map_err(|e| state_error(&e))?;
    let outcome = teller.tell().await?;
    let line = "the new authority is made; once all hosts believe it: `scap-coordinator ca rotate --switch`";
    Ok(say(&teller, line, outcome.as_ref()))
}

async fn switch(args: &RotateArgs) -> Result<u8, CliError> {
    let teller = Teller::open(&args.tell)?;
    if teller.state.rotation() == Rotation::Begun {
        let outcome = teller.tell().await?;
        let untold = outcome.as_ref().map(|it| teller.untold(it));
        refuse_unless_ready(args, untold, "do not believe the new authority yet")?;
    }
    let now = clock::now();
    let switched = teller.state.switch_authority(&teller.identity, now);
    switched.map_err(|e| state_error(&e))?;
    let teller = Teller::open(&args.tell)?;
    let line = "the new authority issues from now on; renew the certificates of all hosts: \
                `scap-coordinator renew --all`, then: `scap-coordinator ca rotate --finish`";
    let outcome = teller.tell().await?;
    Ok(say(&teller, line, outcome.as_ref()))
}

async fn finish(args: &RotateArgs) -> Result<u8, CliError> {
    let teller = Teller::open(&args.tell)?;
    if teller.state.rotation() != Rotation::Switched {
        let text = "finish the rotation: it has not switched to a new authority";
        return Err(
            CliError::usage(text).hint("`scap-coordinator ca status` says where it is".to_owned())
        );
    }
    let outcome = teller.tell().await?;
    let old = outcome.as_ref().map(|it| of_old_authority(&teller, it));
    let old = old.transpose()?;
    refuse_unless_ready(args, old, "have no certificate of the new authority yet")?;
    let finished = teller
        .state
        .finish_rotation(teller.identity.trust(), clock::now());
    let retired = finished.map_err(|e| state_error(&e))?;
    let outcome = teller.tell().await?;
    let line = format!(
        "the old authority counts no more; its key is in {}: destroy it once you need it for nothing",
        retired.display()
    );
    Ok(say(&teller, &line, outcome.as_ref()))
}

/// Whose certificate is of another authority than the one that issues now, or not known, and why.
fn of_old_authority(
    teller: &Teller<'_>,
    outcome: &Outcome,
) -> Result<BTreeMap<NodeId, String>, CliError> {
    let issuing = issuing(teller)?;
    let mut old = outcome.told.away.clone();
    for (host, standing) in &outcome.told.standings {
        let reason = match standing {
            Some(standing) if standing.issuer == issuing => continue,
            Some(_) => "its certificate is of the old authority",
            None => "its agent is of an older build, which does not say",
        };
        old.insert(host.clone(), reason.to_owned());
    }
    Ok(old)
}

/// The first bytes of the key of the authority that issues now.
fn issuing(teller: &Teller<'_>) -> Result<[u8; 8], CliError> {
    let authority = teller.state.authority().map_err(|e| state_error(&e))?;
    let key = authority.public_key().first_chunk();
    Ok(*key.expect("a key has 32 bytes"))
}

fn refuse_unless_ready(
    args: &RotateArgs,
    unready: Option<BTreeMap<NodeId, String>>,
    what: &str,
) -> Result<(), CliError> {
    if args.force {
        return Ok(());
    }
    let Some(unready) = unready else {
        return Err(CliError::usage(
            "--fleet FILE is needed: all hosts are asked first",
        ));
    };
    let Some((first, reason)) = unready.first_key_value() else {
        return Ok(());
    };
    let names: Vec<&str> = unready.keys().map(NodeId::as_str).collect();
    let reason = reason.escape_debug();
    Err(CliError::usage(format!(
        "{} hosts {what}: {} ({first}: {reason})",
        names.len(),
        names.join(", ")
    ))
    .code(exit::STOPPED)
    .hint(
        "mend that and try again; --force goes on without them, and they must be enrolled again"
            .to_owned(),
    ))
}

async fn status(args: &TellArgs) -> Result<u8, CliError> {
    let teller = Teller::open(args)?;
    let outcome = teller.tell().await?;
    let trust = teller.identity.trust();
    let issuing = issuing(&teller)?;
    let rotation = teller.state.rotation();
    if args.json {
        let hosts = outcome.as_ref().map(|it| hosts_json(it, issuing));
        println!(
            "{}",
            json!({
                "schema": "scap.ca/1",
                "number": trust.mark().number,
                "authorities": trust.authorities().len(),
                "rotation": rotation.as_str(),
                "revoked": revoked_json(&teller.identity),
                "hosts": hosts,
            })
        );
        return Ok(exit::DONE);
    }
    println!(
        "fleet {}  trust #{}  authorities {}  rotation {}",
        trust.fleet(),
        trust.mark().number,
        trust.authorities().len(),
        rotation.as_str()
    );
    let Some(outcome) = outcome else {
        return Ok(exit::DONE);
    };
    for (host, standing) in &outcome.told.standings {
        match standing {
            None => println!("  {host}  of an older build, which does not say"),
            Some(standing) => println!(
                "  {host}  trust #{}  certificate of the {} authority, until {}",
                standing.mark.number,
                issued_by(standing, issuing),
                date(standing.expires)
            ),
        }
    }
    for (host, reason) in &outcome.told.away {
        println!("  {host}  not reached: {}", reason.escape_debug());
    }
    Ok(exit::DONE)
}

fn issued_by(standing: &TrustStanding, issuing: [u8; 8]) -> &'static str {
    match standing.issuer {
        issuer if issuer == issuing => "present",
        [0, 0, 0, 0, 0, 0, 0, 0] => "unknown",
        _ => "other",
    }
}

fn hosts_json(outcome: &Outcome, issuing: [u8; 8]) -> Value {
    let said = outcome.told.standings.iter().map(|(host, standing)| {
        let standing = standing.map(|it| {
            json!({
                "number": it.mark.number,
                "issuer": issued_by(&it, issuing),
                "expires_unix_ms": it.expires.0,
            })
        });
        json!({ "host": host, "standing": standing })
    });
    let away = outcome.told.away.iter();
    let away = away.map(|(host, reason)| json!({ "host": host, "unreachable": reason }));
    Value::Array(said.chain(away).collect())
}

fn say(teller: &Teller<'_>, line: &str, outcome: Option<&Outcome>) -> u8 {
    if teller.args.json {
        println!("{}", teller.json(outcome));
    } else {
        println!("{line}");
    }
    let untold = outcome.map(|outcome| match teller.args.json {
        true => teller.untold(outcome).into_keys().collect(),
        false => teller.print(outcome),
    });
    match untold {
        Some(untold) if untold.is_empty() => exit::DONE,
        _ => exit::PARTIAL,
    }
}
