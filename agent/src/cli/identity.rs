//! `scap-agent identity`: this host's key, made here, and what a coordinator answers for it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use rustix::fs::OFlags;
use scap_proto::{
    identity::{
        Enrolment, EnrolmentError, Identity, IdentityRequest,
        install::{self, CERTIFICATE_FILE, InstallError, file_in},
        key_fingerprint,
    },
    limits::ENROLMENT_BYTES_MAX,
    place::{self, PlaceError},
};

use super::{exit, fail};
use crate::{
    clock,
    config::IDENTITY_DIRECTORY,
    enrolment::{self, BecomeError},
    trust::HostTrust,
};

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Make this host's key, where it has none, and print the request to have it certified
    Request(PlaceArgs),
    /// Install what was answered to the request, from standard input
    Install(PlaceArgs),
    /// Do both, as `scap-coordinator enroll --ssh` runs it: print the present certificate, if it is good, and the request, and
    /// install what comes on standard input, if anything does
    Exchange(PlaceArgs),
}

#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// The identity directory
    #[arg(long, value_name = "DIR", default_value = IDENTITY_DIRECTORY)]
    identity: PathBuf,
    /// As root: make the directory for this user, where it is not there; where it is, its owner is who acts
    #[arg(long, value_name = "USER", default_value = "scap")]
    user: String,
}

/// Why a host has no identity yet.
#[derive(Debug, thiserror::Error)]
enum IdentityError {
    /// The agent's user is to own the directory.
    #[error("there is no user {0:?} on this host")]
    NoUser(String),
    /// A step on the disk, or of becoming the user.
    #[error("{doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Nobody answered.
    #[error("nothing came on standard input")]
    Nothing,
    #[error("read standard input")]
    Read(#[source] io::Error),
    #[error("print the request")]
    Print(#[source] io::Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Request(#[from] InstallError),
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    #[error(transparent)]
    Become(#[from] BecomeError),
}

pub(super) fn run(command: &IdentityCommand) -> ExitCode {
    let (doing, done) = match command {
        IdentityCommand::Request(place) => ("make a request", request(place, false)),
        IdentityCommand::Install(place) => ("install an identity", install_answer(place, true)),
        IdentityCommand::Exchange(place) => (
            "exchange a request for an identity",
            request(place, true).and_then(|()| install_answer(place, false)),
        ),
    };
    match done {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            let hint = matches!(error, IdentityError::NoUser(_)).then_some(
                "make it, as the unit does that runs the agent, or name the user that runs it with --user",
            );
            fail(doing, &error, hint)
        }
    }
}

fn request(place: &PlaceArgs, with_certificate: bool) -> Result<(), IdentityError> {
    act_as_owner(place)?;
    let directory = &place.identity;
    let text = install::request(directory)?;
    let now = clock::now();
    let mut out = io::stdout().lock();
    if with_certificate
        && HostTrust::load(directory, now).is_ok_and(|it| it.identity.check_time(now.0).is_ok())
        && let Ok(certificate) = fs::read(file_in(directory, CERTIFICATE_FILE))
    {
        out.write_all(&certificate).map_err(IdentityError::Print)?;
    }
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(IdentityError::Print)?;
    if let Ok(request) = IdentityRequest::parse(text.as_bytes())
        && !with_certificate
    {
        eprintln!("key {}", key_fingerprint(request.public_key()));
    }
    Ok(())
}

fn install_answer(place: &PlaceArgs, must_come: bool) -> Result<(), IdentityError> {
    act_as_owner(place)?;
    let mut answer = Vec::new();
    io::stdin()
        .lock()
        .take(ENROLMENT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut answer)
        .map_err(IdentityError::Read)?;
    if answer.is_empty() {
        return match must_come {
            true => Err(IdentityError::Nothing),
            false => Ok(()),
        };
    }
    let answer = Enrolment::decode(&answer)?;
    let installed = enrolment::install(&place.identity, &answer, None, clock::now())?;
    if !installed.kept.is_empty() {
        println!(
            "kept of this host's own host.toml: {}",
            installed.kept.join(", ")
        );
    }
    let identity = installed.identity;
    println!(
        "installed the identity of {} in {}, valid until {}",
        identity.own(),
        place.identity.display(),
        valid_until(&identity)
    );
    Ok(())
}

fn valid_until(identity: &Identity) -> Timestamp {
    let millis = identity.validity().not_after_unix_ms;
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// Root writes nothing into a directory of somebody else, who could have it write elsewhere: it becomes that user first, by
/// running this program again.
fn act_as_owner(place: &PlaceArgs) -> Result<(), IdentityError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let path = &place.identity;
    let owner = match fs::metadata(path) {
        Ok(metadata) => (metadata.uid(), metadata.gid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_for(&place.user, path)?,
        Err(source) => return Err(io_error("look at", path, source)),
    };
    if owner.0 == 0 {
        return Ok(());
    }
    let program =
        std::env::current_exe().map_err(|source| io_error("find", Path::new("myself"), source))?;
    // It takes the place of this process, and root's further groups are given up with its user.
    let source = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .uid(owner.0)
        .gid(owner.1)
        .exec();
    Err(io_error("run as the directory's owner", &program, source))
}

/// Makes the directory, which is not there, for a user of this host.
fn make_for(user: &str, path: &Path) -> Result<(u32, u32), IdentityError> {
    let owner = (id_of(user, "-u")?, id_of(user, "-g")?);
    // What is made and given away below is what is meant: nobody else can put anything in its place.
    place::check_above(path)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|source| io_error("make", parent, source))?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| io_error("make", path, source))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .and_then(|directory| fchown(directory, Some(owner.0), Some(owner.1)))
        .map_err(|source| io_error("give away", path, source))?;
    Ok(owner)
}

/// By the host's own tool, which knows all of its sources of users.
fn id_of(user: &str, which: &str) -> Result<u32, IdentityError> {
    let told = Command::new("id").args([which, "--", user]).output();
    let told = told.map_err(|source| io_error("run", Path::new("id"), source))?;
    let id = String::from_utf8_lossy(&told.stdout).trim().parse();
    id.map_err(|_| IdentityError::NoUser(user.to_owned()))
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
