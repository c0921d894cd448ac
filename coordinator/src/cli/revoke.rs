//! `revoke` and `unrevoke`: who is cut off from the fleet.

use std::path::PathBuf;

use clap::Args;
use scap_agent::{api::RevokedView, clock};
use scap_proto::{
    id::NodeId,
    identity::{Denial, Denied, FleetTrust, Role, certificate_key},
    limits::DENIAL_REASON_BYTES_MAX,
    release::UnixMillis,
};

use super::{
    CliError, exit,
    trusted::{Outcome, TellArgs, Teller, date, is_in_fleet, state_error},
};
use crate::{
    enroll::{TokenError, TokenRecord, TokenState},
    state::StateDirectory,
};

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The hosts: all certificates that they have, also those that nobody knows of, count no more
    #[arg(value_name = "HOST", required_unless_present_any = ["list", "coordinator", "certificate"])]
    hosts: Vec<NodeId>,
    /// Cut off every coordinator but this one, which gets a new key: where a laptop with a copy of the state was stolen. Who has
    /// the authority's key too can undo it: see `ca rotate`
    #[arg(long)]
    coordinator: bool,
    /// Cut off the key of this certificate, a file that ends in `.crt`; may be repeated
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,
    /// Why, in a line; each host keeps it
    #[arg(long, value_name = "TEXT", default_value = "revoked")]
    reason: String,
    /// Take names that the fleet file does not have
    #[arg(long)]
    unlisted: bool,
    /// Only say who is cut off
    #[arg(long, conflicts_with_all = ["hosts", "coordinator", "certificate"])]
    list: bool,
    #[command(flatten)]
    tell: TellArgs,
}

#[derive(Debug, Args)]
pub(super) struct UnrevokeArgs {
    /// The hosts, whose old certificates count again
    #[arg(value_name = "HOST", required = true)]
    hosts: Vec<NodeId>,
    #[command(flatten)]
    tell: TellArgs,
}

pub(super) async fn revoke(args: RevokeArgs) -> Result<u8, CliError> {
    let mut teller = Teller::open(&args.tell)?;
    if args.list {
        return Ok(list(&teller));
    }
    if args.reason.len() > DENIAL_REASON_BYTES_MAX {
        let text = format!("--reason has more than {DENIAL_REASON_BYTES_MAX} bytes");
        return Err(CliError::usage(text));
    }
    if let (Some(file), false) = (&args.tell.fleet, args.unlisted) {
        for host in &args.hosts {
            if !is_in_fleet(file, host)? {
                let text = format!(
                    "revoke {host}: it is not in the fleet file {}",
                    file.display()
                );
                return Err(CliError::usage(text)
                    .hint("is it spelled so? --unlisted revokes it all the same".to_owned()));
            }
        }
    }
    let now = clock::now();
    let coordinator = teller.identity.own().clone();
    let hosts = args.hosts.iter().map(|name| (Role::Agent, name.clone()));
    let coordinators = args
        .coordinator
        .then(|| (coordinator.role, coordinator.name.clone()));
    let mut denied = Vec::new();
    for (role, name) in hosts.chain(coordinators) {
        let issued_until = issued_by(&teller, role, &name, now)?;
        denied.push(Denied::Node {
            role,
            name,
            issued_until,
        });
    }
    for path in &args.certificate {
        denied.push(Denied::Key(certificate_key(path).map_err(|error| {
            CliError::failed("read the certificate", &error).code(exit::USAGE)
        })?));
    }
    let state = teller.state.clone();
    let change = |trust: &mut FleetTrust| {
        for who in &denied {
            let who = &including_late(&state, who, clock::now());
            // What was stolen before it was enrolled again stays so.
            let stays = |it: &Denial| it.is_enrolled_again || !is_same(&it.who, who);
            trust.denials.retain(stays);
            trust.denials.push(Denial {
                who: who.clone(),
                reason: args.reason.clone(),
                since: now,
                is_enrolled_again: false,
            });
        }
    };
    if args.coordinator {
        // Signed and believed first; then we are nobody until we have a new certificate.
        let signed = teller
            .state
            .sign_trust(teller.identity.trust(), now, change);
        signed.map_err(|e| state_error(&e))?;
        let renewed = teller.state.renew_coordinator(now);
        renewed.map_err(|e| state_error(&e))?;
        teller = Teller::open(&args.tell)?;
    }
    for host in &args.hosts {
        take_tokens_back(&teller.state, host)?;
    }
    let outcome = match args.coordinator {
        true => teller.tell().await?,
        false => teller.change(change).await?,
    };
    let names: Vec<String> = args.hosts.iter().map(ToString::to_string).collect();
    let mut what = names;
    if args.coordinator {
        what.push("every coordinator but this one".to_owned());
    }
    what.extend(args.certificate.iter().map(|it| it.display().to_string()));
    let number = teller.identity.trust().mark().number;
    let line = format!(
        "revoked {}: {}  (fleet trust #{number})",
        what.join(", "),
        args.reason.escape_debug()
    );
    Ok(say(&teller, &line, outcome.as_ref()))
}

pub(super) async fn unrevoke(args: UnrevokeArgs) -> Result<u8, CliError> {
    let teller = Teller::open(&args.tell)?;
    let trust = teller.identity.trust();
    let known = trust.fleet_trust().map(|it| it.denials).unwrap_or_default();
    for host in &args.hosts {
        let is_revoked = |it: &Denial| !it.is_enrolled_again && crate::state::is_of_host(it, host);
        if !known.iter().any(is_revoked) {
            return Err(CliError::usage(format!("{host} is not revoked"))
                .hint("`scap-coordinator revoke --list` says who is".to_owned()));
        }
    }
    let outcome = teller
        .change(|trust| {
            let is_meant = |denial: &Denial| {
                args.hosts
                    .iter()
                    .any(|host| crate::state::is_of_host(denial, host))
            };
            // An earlier thief's certificate is not meant.
            let stays = |denial: &Denial| denial.is_enrolled_again || !is_meant(denial);
            trust.denials.retain(stays);
        })
        .await?;
    let names: Vec<&str> = args.hosts.iter().map(NodeId::as_str).collect();
    let number = trust.mark().number;
    let line = format!(
        "revoked no more: {}  (fleet trust #{number})",
        names.join(", ")
    );
    Ok(say(&teller, &line, outcome.as_ref()))
}

/// Until when whatever was issued to a node must have been issued: now, or later where this clock is behind the one by which it was enrolled or
/// revoked before.
fn issued_by(
    teller: &Teller<'_>,
    role: Role,
    name: &NodeId,
    now: UnixMillis,
) -> Result<UnixMillis, CliError> {
    let before = teller.state.denied_until(role, name);
    let before = before.map_err(|e| state_error(&e))?;
    let record = match role {
        Role::Agent => teller.state.enrolment(name).map_err(|e| state_error(&e))?,
        _ => None,
    };
    let enrolled = record.map(|it| it.enrolled.as_millisecond());
    let enrolled = enrolled
        .and_then(|it| u64::try_from(it).ok())
        .map(UnixMillis);
    let latest = before.max(enrolled).unwrap_or(now);
    if now < latest {
        eprintln!(
            "the clock of this machine is behind: {name} was enrolled or revoked after what it shows"
        );
    }
    Ok(latest.max(now))
}

/// The same with what was certified since it was asked for: while somebody waited to sign, another may have enrolled the host.
fn including_late(state: &StateDirectory, who: &Denied, now: UnixMillis) -> Denied {
    let mut who = who.clone();
    if let Denied::Node {
        role,
        name,
        issued_until,
    } = &mut who
    {
        let record = match role {
            Role::Agent => state.enrolment(name).ok().flatten(),
            _ => None,
        };
        let enrolled = record.and_then(|it| u64::try_from(it.enrolled.as_millisecond()).ok());
        let latest = now.max(UnixMillis(enrolled.unwrap_or(0)));
        *issued_until = latest.max(*issued_until);
    }
    who
}

/// The host's tokens that nobody used are not waited for any more. That none from before brings it back is checked when one is shown.
fn take_tokens_back(state: &StateDirectory, host: &NodeId) -> Result<(), CliError> {
    let failed = |error: TokenError| CliError::failed("take the host's tokens back", &error);
    let (tokens, now) = (state.tokens(), clock::now());
    let is_pending = |it: &TokenRecord| it.host == *host && it.state(now) == TokenState::Pending;
    for record in tokens
        .list()
        .map_err(failed)?
        .iter()
        .filter(|it| is_pending(it))
    {
        tokens
            .revoke(&record.id().to_string(), now)
            .map_err(failed)?;
        eprintln!("token {} of {host} is revoked too", record.id());
    }
    Ok(())
}

/// Whether the later takes the place of the earlier.
fn is_same(earlier: &Denied, later: &Denied) -> bool {
    match (earlier, later) {
        (
            Denied::Node { role, name, .. },
            Denied::Node {
                role: later_role,
                name: later_name,
                ..
            },
        ) => role == later_role && name == later_name,
        (Denied::Key(key), Denied::Key(later)) => key == later,
        _ => false,
    }
}

fn say(teller: &Teller<'_>, line: &str, outcome: Option<&Outcome>) -> u8 {
    if teller.args.json {
        println!("{}", teller.json(outcome));
    } else {
        println!("{line}");
    }
    let Some(outcome) = outcome else {
        if !teller.args.json {
            println!(
                "nobody is told yet: --fleet FILE tells all hosts, and so does the next deployment"
            );
        }
        return exit::PARTIAL;
    };
    let untold = match teller.args.json {
        true => teller.untold(outcome).into_keys().collect(),
        false => teller.print(outcome),
    };
    match untold.is_empty() {
        true => exit::DONE,
        false => exit::PARTIAL,
    }
}

fn list(teller: &Teller<'_>) -> u8 {
    if teller.args.json {
        println!("{}", teller.json(None));
        return exit::DONE;
    }
    let trust = teller.identity.trust().fleet_trust();
    let denials = trust.map(|it| it.denials).unwrap_or_default();
    if denials.is_empty() {
        println!("nobody is revoked");
    }
    for denial in &denials {
        let view = RevokedView::new(denial);
        let again = match denial.is_enrolled_again {
            true => "; enrolled again since",
            false => "",
        };
        println!(
            "{} {}  since {}: {}{again}",
            view.kind,
            view.name,
            date(denial.since),
            denial.reason.escape_debug()
        );
    }
    exit::DONE
}
