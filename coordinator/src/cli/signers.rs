//! `signers`: who may release, and how that changes: a new file is signed by enough keys of the one before and of itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use scap_agent::clock;
use scap_proto::{
    identity::FleetName,
    release::{
        SignedSigners, SignersFile, SignersInForce, UnixMillis,
        signature::{AllowedSigners, SshSignature},
        signed::SignedObject,
        signers_namespace,
    },
};

use super::{CliError, StateArgs, exit};
use crate::state::{
    FleetAuthorityError, Prepared, PreparedError, StateDirectory, StateError, read_signature,
};

/// How long a new signers file may be the last that a host takes unless it is said, in days. A fleet in which keys do not change
/// for longer signs the same file again.
const DAYS: u64 = 365;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

#[derive(Debug, Args)]
pub(super) struct SignersArgs {
    #[command(subcommand)]
    command: SignersCommand,
}

#[derive(Debug, Subcommand)]
enum SignersCommand {
    /// Say which signers file is in force, and how it came to be
    Show(ShowArgs),
    /// Bring a new signers file: hosts take it with the next deployment
    Rotate(RotateArgs),
    /// Sign a file that `rotate --out` wrote
    Sign(SignArgs),
    /// Add signatures that `ssh-keygen -Y sign` made elsewhere
    AddSignature(AddArgs),
    /// Take a file that `rotate --out` wrote and enough keys of both sides signed
    Adopt(AdoptArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The new file, in OpenSSH's `allowed_signers` format
    new: PathBuf,
    #[command(flatten)]
    state: StateArgs,
    /// Sign with this key; may be repeated; as `deploy --sign-with` [default: the key that `init` made]
    #[arg(long, value_name = "FILE")]
    sign_with: Vec<PathBuf>,
    /// For how many days it may be the last file that a host takes
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Write it to a file for others to sign, and change nothing yet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SignArgs {
    /// The file that `rotate --out` wrote
    file: PathBuf,
    #[command(flatten)]
    state: StateArgs,
    /// Sign with this key, as `deploy --sign-with` [default: the key that `init` made]
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The file that `rotate --out` wrote
    file: PathBuf,
    /// The signatures' files
    #[arg(required = true, value_name = "SIGNATURE")]
    signatures: Vec<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct AdoptArgs {
    /// The file that `rotate --out` wrote
    file: PathBuf,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &SignersArgs) -> Result<u8, CliError> {
    match &args.command {
        SignersCommand::Show(args) => show(args),
        SignersCommand::Rotate(args) => rotate(args),
        SignersCommand::Sign(args) => sign(args),
        SignersCommand::AddSignature(args) => add(args),
        SignersCommand::Adopt(args) => adopt(args),
    }
}

fn show(args: &ShowArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    let chain = state.signers_chain().map_err(|error| failed(&error))?;
    let thresholds = state.thresholds().map_err(|error| failed(&error))?;
    println!("signers file {}", chain.in_force.number());
    println!("  {} keys sign the next", thresholds.of_signers());
    for line in chain.in_force.text().lines() {
        println!("  {}", line.escape_debug());
    }
    Ok(exit::DONE)
}

fn rotate(args: &RotateArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    let chain = state.signers_chain().map_err(|error| failed(&error))?;
    let text = fs::read_to_string(&args.new).map_err(|error| {
        let doing = format!("read {}", args.new.display());
        CliError::failed(&doing, &error).code(exit::USAGE)
    })?;
    text.parse::<AllowedSigners>().map_err(|error| {
        let doing = format!("read {}", args.new.display());
        CliError::failed(&doing, &error).code(exit::USAGE)
    })?;
    let file = SignersFile {
        number: chain.in_force.number() + 1,
        previous: chain.in_force.hash(),
        text,
        expires: UnixMillis(clock::now().0 + args.days * DAY_MILLIS),
        extensions: Default::default(),
    };
    let mut prepared = Prepared::new(file.to_payload());
    let keys: Vec<Option<&Path>> = match (&args.sign_with[..], &args.out) {
        ([], Some(_)) => Vec::new(),
        ([], None) => vec![None],
        (keys, _) => keys.iter().map(|key| Some(key.as_path())).collect(),
    };
    let sides = Sides::of(&state, &prepared)?;
    for key in keys {
        sides.sign(&state, &mut prepared, key)?;
    }
    let Some(out) = &args.out else {
        return take(&state, prepared);
    };
    let to_sign = prepared.save(out).map_err(|error| unsigned(&error))?;
    println!(
        "signers file {} waits for signatures in {}",
        file.number,
        out.display()
    );
    println!(
        "  ssh-keygen -Y sign -n {} -f KEY {}",
        sides.namespace,
        to_sign.display()
    );
    Ok(exit::DONE)
}

fn sign(args: &SignArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    let mut prepared = load(&args.file)?;
    let sides = Sides::of(&state, &prepared)?;
    sides.sign(&state, &mut prepared, args.sign_with.as_deref())?;
    prepared
        .save(&args.file)
        .map_err(|error| unsigned(&error))?;
    Ok(exit::DONE)
}

fn add(args: &AddArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    let mut prepared = load(&args.file)?;
    let sides = Sides::of(&state, &prepared)?;
    for path in &args.signatures {
        let signature = read_signature(path).map_err(|error| unsigned(&error))?;
        let signers = sides.of_signature(&prepared, &signature);
        let added = prepared.add(signature, &sides.namespace, signers, clock::now().0);
        let (signer, _) = added.map_err(|error| unsigned(&error))?;
        eprintln!("signed by {}", signer.fingerprint);
    }
    prepared
        .save(&args.file)
        .map_err(|error| unsigned(&error))?;
    Ok(exit::DONE)
}

fn adopt(args: &AdoptArgs) -> Result<u8, CliError> {
    let state = open(&args.state)?;
    take(&state, load(&args.file)?)
}

fn take(state: &StateDirectory, prepared: Prepared) -> Result<u8, CliError> {
    let link = SignedSigners {
        payload: prepared.payload,
        signatures: prepared.signatures,
    };
    let taken = state.take_signers(&link, clock::now());
    let taken = taken.map_err(|error| match error {
        StateError::FleetAuthority(error) => failed(&error),
        error => CliError::failed("change who may release", &error).hint(error.hint()),
    })?;
    println!("signers file {} is in force here", taken.number());
    vouch(state);
    println!(
        "next: deploy, which brings it to the hosts; a host that is not reached takes it with any later deployment"
    );
    Ok(exit::DONE)
}

/// Has the fleet's authority say that it is: a host that is away until keys of the file before are over knows the true way by that. Where
/// the authority is not here it goes without.
fn vouch(state: &StateDirectory) {
    let vouched = state.identity().and_then(|identity| {
        let now = clock::now();
        state.sign_trust(identity.trust(), now, |_| {})
    });
    match vouched {
        Ok(trust) => println!(
            "the authority vouches for it: fleet trust #{}",
            trust.number
        ),
        Err(error) => eprintln!(
            "the authority does not vouch for it ({}): a host that is away until keys of the file before expire must be enrolled again",
            scap_agent::error_chain(&error).escape_debug()
        ),
    }
}

/// The two files of which enough keys must sign: a key of the new one alone is nobody in the one before.
struct Sides {
    namespace: String,
    before: AllowedSigners,
    new: AllowedSigners,
}

impl Sides {
    fn of(state: &StateDirectory, prepared: &Prepared) -> Result<Self, CliError> {
        let state_failed =
            |error: StateError| CliError::failed("read the state", &error).hint(error.hint());
        let identity = state.identity().map_err(state_failed)?;
        let fleet: &FleetName = identity.trust().fleet();
        let file = SignersFile::from_payload(&prepared.payload).map_err(|error| {
            CliError::failed("read the prepared signers file", &error).code(exit::USAGE)
        })?;
        let new = SignersInForce::new(file.number, file.text);
        let new = new.map_err(|error| CliError::failed("read the new signers file", &error))?;
        Ok(Self {
            namespace: signers_namespace(fleet),
            before: state.allowed_signers().map_err(state_failed)?,
            new: new.signers().clone(),
        })
    }

    /// The file in which a signature counts: the one before, unless it does so in the new one alone.
    fn of_signature(&self, prepared: &Prepared, signature: &SshSignature) -> &AllowedSigners {
        let counts = |signers: &AllowedSigners| {
            let (namespace, now) = (&self.namespace, clock::now().0);
            let verified = signers.verify(namespace, &prepared.payload, signature, now);
            verified.is_ok()
        };
        match !counts(&self.before) && counts(&self.new) {
            true => &self.new,
            false => &self.before,
        }
    }

    fn sign(
        &self,
        state: &StateDirectory,
        prepared: &mut Prepared,
        key: Option<&Path>,
    ) -> Result<(), CliError> {
        let signer = state.signer(key).map_err(|error| {
            CliError::failed("sign the signers file", &error).hint(error.hint())
        })?;
        let signature = signer
            .sign(&self.namespace, &prepared.payload)
            .map_err(|error| CliError::failed("sign the signers file", &error))?;
        let now = clock::now().0;
        let signers = self.of_signature(prepared, &signature);
        let added = prepared.add(signature, &self.namespace, signers, now);
        let (signer, is_new) = added.map_err(|error| unsigned(&error))?;
        let how = if is_new {
            "signed by"
        } else {
            "signed already by"
        };
        eprintln!("{how} {}", signer.fingerprint);
        Ok(())
    }
}

fn open(state: &StateArgs) -> Result<StateDirectory, CliError> {
    StateDirectory::open(&state.state)
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))
}

fn load(file: &Path) -> Result<Prepared, CliError> {
    Prepared::load(file).map_err(|error| unsigned(&error))
}

fn unsigned(error: &PreparedError) -> CliError {
    CliError::failed("sign the signers file", error)
}

fn failed(error: &FleetAuthorityError) -> CliError {
    let hint = match error {
        FleetAuthorityError::Changed { .. } => {
            "put back what the link brought, and bring what you want with `signers rotate`"
        }
        FleetAuthorityError::Signers(_) => {
            "enough keys of the file before and of the new one must sign it: `rotate --sign-with KEY` for each, or --out and `signers sign` or `add-signature`. Their lines must allow the namespace scap-signers:FLEET"
        }
        _ => return CliError::failed("change who may release", error),
    };
    CliError::failed("change who may release", error)
        .code(exit::STOPPED)
        .hint(hint.to_owned())
}
