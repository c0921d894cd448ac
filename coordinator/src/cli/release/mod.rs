//! `release`: signatures that are collected apart. One prepares, others sign elsewhere, one deploys.

mod show;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use scap_agent::clock;
use scap_proto::release::{
    Authority, Release, UnixMillis,
    signature::{AllowedSigners, SshSignature, VerifiedSigner},
};
use serde_json::json;

use self::show::describe;
use super::{
    CliError, StateArgs,
    deploy::{self, Given},
    exit,
};
use crate::state::{Prepared, PreparedError, StateDirectory, StateError, read_signature, to_sign};

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    #[command(subcommand)]
    command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
enum ReleaseCommand {
    /// Decide everything about a release and write it to a file, with the bytes to sign; contacts nobody
    Prepare(Box<deploy::PrepareArgs>),
    /// Sign a prepared release with a key that is here
    Sign(SignArgs),
    /// Add signatures that `ssh-keygen -Y sign` made elsewhere
    AddSignature(AddArgs),
    /// Say what a prepared release is, and whose signatures it claims to have; with --repo or --dir, whether it is of what is there
    Show(show::ShowArgs),
    /// Say which signatures of a prepared release count, and whether they are enough
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct SignArgs {
    /// The file that `prepare` wrote
    file: PathBuf,
    #[command(flatten)]
    state: StateArgs,
    /// Sign with this OpenSSH private key, or, where the file ends in `.pub`, with that key of the ssh-agent [default:
    /// the key that `init` made]
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The file that `prepare` wrote
    file: PathBuf,
    /// The signatures' files
    #[arg(required = true, value_name = "SIGNATURE")]
    signatures: Vec<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The file that `prepare` wrote
    file: PathBuf,
    #[command(flatten)]
    state: StateArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ReleaseArgs) -> Result<u8, CliError> {
    match args.command {
        ReleaseCommand::Prepare(args) => prepare(*args).await,
        ReleaseCommand::Sign(args) => sign(&args),
        ReleaseCommand::AddSignature(args) => add(&args),
        ReleaseCommand::Show(args) => show::run(args).await,
        ReleaseCommand::Verify(args) => verify(&args),
    }
}

async fn prepare(args: deploy::PrepareArgs) -> Result<u8, CliError> {
    let (release, to_sign) = deploy::prepare(args).await?;
    for line in describe(&release) {
        println!("{line}");
    }
    println!("to sign it elsewhere:");
    println!(
        "  ssh-keygen -Y sign -n {} -f KEY {}",
        release.namespace(),
        to_sign.display()
    );
    Ok(exit::DONE)
}

/// A prepared release, and whose signatures the state directory takes for it.
struct Opened {
    prepared: Prepared,
    release: Release,
    signers: AllowedSigners,
    state: StateDirectory,
}

impl Opened {
    fn of(file: &Path, state: &StateArgs) -> Result<Self, CliError> {
        let failed =
            |error: StateError| CliError::failed("read the state", &error).hint(error.hint());
        let state = StateDirectory::open(&state.state).map_err(failed)?;
        let prepared = load(file)?;
        Ok(Self {
            release: Given::of(prepared.clone())?.release,
            prepared,
            signers: state.allowed_signers().map_err(failed)?,
            state,
        })
    }

    fn save(&self, file: &Path) -> Result<(), CliError> {
        self.prepared
            .save(file)
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// How many distinct keys must sign it.
    fn threshold(&self) -> Result<std::num::NonZeroUsize, CliError> {
        let thresholds = self.state.thresholds();
        let thresholds = thresholds.map_err(|error| CliError::failed("read the state", &error))?;
        Ok(thresholds.of(&self.release.repo, &self.release.environment))
    }

    /// Whose signatures count, and what is wrong with the others.
    fn counted(&self) -> (Vec<VerifiedSigner>, Vec<String>) {
        let namespace = self.release.namespace();
        let verify = |it: &SshSignature| {
            let now = clock::now().0;
            self.signers
                .verify(&namespace, &self.prepared.payload, it, now)
        };
        let mut counted: Vec<VerifiedSigner> = Vec::new();
        let mut others = Vec::new();
        for signature in &self.prepared.signatures {
            match verify(signature) {
                Ok(signer)
                    if counted
                        .iter()
                        .any(|it| it.fingerprint == signer.fingerprint) =>
                {
                    others.push(format!("a second signature by {}", signer.fingerprint));
                }
                Ok(signer) => counted.push(signer),
                Err(error) => others.push(error.to_string()),
            }
        }
        (counted, others)
    }

    /// How many count, for people.
    fn tell(&self) -> Result<(), CliError> {
        let (counted, _) = self.counted();
        println!("{} of {} signatures", counted.len(), self.threshold()?);
        Ok(())
    }
}

fn sign(args: &SignArgs) -> Result<u8, CliError> {
    let mut opened = Opened::of(&args.file, &args.state)?;
    check_time(&opened.release)?;
    let signer = opened.state.signer(args.sign_with.as_deref());
    let signer =
        signer.map_err(|error| CliError::failed("sign the release", &error).hint(error.hint()))?;
    // Before a token waits for a touch.
    for line in describe(&opened.release) {
        eprintln!("{line}");
    }
    let namespace = opened.release.namespace();
    let (signer, is_new) = opened
        .prepared
        .sign(&signer, &namespace, &opened.signers, clock::now().0)
        .map_err(|error| failed(&error))?;
    tell_signer(&signer, is_new);
    opened.save(&args.file)?;
    opened.tell()?;
    Ok(exit::DONE)
}

fn add(args: &AddArgs) -> Result<u8, CliError> {
    let mut opened = Opened::of(&args.file, &args.state)?;
    let namespace = opened.release.namespace();
    for path in &args.signatures {
        let signature = read_signature(path).map_err(|error| failed(&error))?;
        let added = opened
            .prepared
            .add(signature, &namespace, &opened.signers, clock::now().0);
        let (signer, is_new) = added.map_err(|error| {
            let doing = format!("add {}", path.display());
            CliError::failed(&doing, &error)
                .code(exit::FAILED)
                .hint(format!(
                    "sign {} in the namespace {namespace} with a key that allowed_signers names",
                    to_sign(&args.file).display()
                ))
        })?;
        tell_signer(&signer, is_new);
    }
    opened.save(&args.file)?;
    opened.tell()?;
    Ok(exit::DONE)
}

fn verify(args: &VerifyArgs) -> Result<u8, CliError> {
    let opened = Opened::of(&args.file, &args.state)?;
    let (counted, others) = opened.counted();
    let threshold = opened.threshold()?;
    let authority = Authority {
        signers: &opened.signers,
        threshold,
    };
    let now = clock::now();
    let signed = Given::of(opened.prepared.clone())?.signed;
    let whole = signed.verify(&authority, now);
    let problem = match whole.map(|release| release.check_time(now)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(scap_agent::error_chain(&error)),
    };
    let code = match problem {
        None => exit::DONE,
        Some(_) => exit::STOPPED,
    };
    if args.json {
        let by = counted
            .iter()
            .map(|it| json!({"fingerprint": it.fingerprint, "principals": it.principals}));
        let object = json!({
            "schema": "scap.release-signatures/1",
            "release": Given::of(opened.prepared.clone())?.signed.id().to_string(),
            "signed_by": by.collect::<Vec<_>>(),
            "not_counted": others,
            "needed": threshold,
            "may_be_deployed": problem.is_none(),
            "problem": problem,
        });
        println!("{object}");
        return Ok(code);
    }
    for line in describe(&opened.release) {
        println!("{line}");
    }
    counted.iter().for_each(|signer| tell_signer(signer, true));
    for other in others {
        println!("  does not count: {}", other.escape_debug());
    }
    opened.tell()?;
    if let Some(problem) = problem {
        println!("may not be deployed: {}", problem.escape_debug());
    }
    Ok(code)
}

fn tell_signer(signer: &VerifiedSigner, is_new: bool) {
    let how = if is_new {
        "signed by"
    } else {
        "signed already by"
    };
    let (who, key) = (signer.principals.escape_debug(), &signer.fingerprint);
    println!("  {how} {who}, {key}");
}

/// What is past its time is not signed any more.
fn check_time(release: &Release) -> Result<(), CliError> {
    let now: UnixMillis = clock::now();
    if now <= release.expires {
        return Ok(());
    }
    Err(
        CliError::usage("sign the release: it expired, and nobody would take it")
            .code(exit::STOPPED)
            .hint("`release prepare` makes a new one".to_owned()),
    )
}

fn load(file: &Path) -> Result<Prepared, CliError> {
    Prepared::load(file).map_err(|error| failed(&error))
}

fn failed(error: &PreparedError) -> CliError {
    let code = match error {
        PreparedError::Other(_) | PreparedError::Signature { .. } => exit::USAGE,
        _ => exit::FAILED,
    };
    CliError::failed("use the prepared release", error).code(code)
}
