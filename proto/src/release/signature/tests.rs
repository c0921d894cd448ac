//! Ours against ours, and against stock OpenSSH where it is installed.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;

const NAMESPACE: &str = "scap-release:production:web/app";
const MESSAGE: &[u8] = b"a release";
/// 2026-01-02 03:04:05 UTC.
const NOW_UNIX_MS: u64 = 1_767_323_045_000;

struct Deployer {
    directory: TempDir,
    signer: Signer,
}

impl Deployer {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::create(&directory.path().join("key"), "deploy@example.org").unwrap();
        Self { directory, signer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn key_text(&self) -> String {
        self.signer.public_key().to_openssh().unwrap()
    }

    /// A line for this key with these options.
    fn line(&self, options: &str) -> String {
        format!("deploy@example.org {options} {}", self.key_text())
    }

    fn allowed(&self, options: &str) -> AllowedSigners {
        self.line(options).parse().unwrap()
    }

    fn sign(&self) -> SshSignature {
        self.signer.sign(NAMESPACE, MESSAGE).unwrap()
    }
}

fn verify(
    allowed: &AllowedSigners,
    signature: &SshSignature,
) -> Result<VerifiedSigner, SignatureError> {
    allowed.verify(NAMESPACE, MESSAGE, signature, NOW_UNIX_MS)
}

#[test]
fn a_signature_counts_for_its_message_namespace_and_key_and_nothing_else() {
    let deployer = Deployer::new();
    let allowed = deployer.allowed("");
    let signature = deployer.sign();
    let signer = verify(&allowed, &signature).unwrap();
    assert_eq!(signer.principals, "deploy@example.org");
    assert_eq!(signer.fingerprint, deployer.signer.fingerprint());

    let other_message = allowed.verify(NAMESPACE, b"b release", &signature, NOW_UNIX_MS);
    assert!(matches!(other_message, Err(SignatureError::Bad { .. })));
    for namespace in [
        "scap-release:staging:web/app",
        "scap-release:production:web",
        "",
    ] {
        let refused = allowed.verify(namespace, MESSAGE, &signature, NOW_UNIX_MS);
        assert!(
            matches!(refused, Err(SignatureError::OtherNamespace { .. })),
            "{namespace}"
        );
    }
    let stranger = Deployer::new().sign();
    assert!(matches!(
        verify(&allowed, &stranger),
        Err(SignatureError::Unknown { .. })
    ));
    assert!(deployer.signer.sign("", MESSAGE).is_err());
}

#[test]
fn a_signature_with_any_bit_flipped_does_not_count() {
    let deployer = Deployer::new();
    let allowed = deployer.allowed("");
    let armored: String = deployer.sign().into();
    let body = armored.find('\n').unwrap()..armored.rfind("-----END").unwrap();
    for index in body {
        for bit in 0..7 {
            let mut bytes = armored.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let text = String::from_utf8(bytes).unwrap();
            let Ok(signature) = text.parse::<SshSignature>() else {
                continue;
            };
            let accepted = verify(&allowed, &signature).is_ok();
            // The base64 alphabet's spare bits and white space carry nothing.
            assert!(
                !accepted || signature.parsed() == deployer.sign().parsed(),
                "{index} {bit}"
            );
        }
    }
}

#[test]
fn a_line_allows_its_namespaces_alone() {
    let deployer = Deployer::new();
    let signature = deployer.sign();
    for (options, allows) in [
        ("namespaces=\"scap-release:production:*\"", true),
        ("NAMESPACES=\"scap-release:*,!*:web/secret\"", true),
        ("namespaces=\"file,scap-release:production:web/app\"", true),
        ("namespaces=\"scap-release:staging:*\"", false),
        ("namespaces=\"*,!scap-release:production:*\"", false),
        ("namespaces=\"\"", false),
    ] {
        assert_eq!(
            verify(&deployer.allowed(options), &signature).is_ok(),
            allows,
            "{options}"
        );
    }
    let refusal = verify(&deployer.allowed("namespaces=\"file\""), &signature).unwrap_err();
    let text = refusal.to_string();
    assert!(
        text.contains("of deploy@example.org, who may sign in `file`"),
        "{text}"
    );

    // A second line for the same key counts too.
    let two = format!(
        "{}\n{}\n",
        deployer.line("namespaces=\"file\""),
        deployer.line("namespaces=\"scap-release:*\"")
    );
    assert!(verify(&two.parse().unwrap(), &signature).is_ok());
}

#[test]
fn a_line_allows_only_within_its_dates_ends_included() {
    let deployer = Deployer::new();
    let signature = deployer.sign();
    for (options, allows) in [
        ("valid-after=\"20260102030405Z\"", true),
        ("valid-after=\"20260102030406Z\"", false),
        ("valid-before=\"20260102030405Z\"", true),
        ("valid-before=\"20260102030404Z\"", false),
        ("valid-before=\"202601020305Z\"", true),
        ("valid-after=\"20260102Z\",valid-before=\"20260103Z\"", true),
        ("valid-after=\"20250101\",valid-before=\"20270101\"", true),
        ("valid-after=\"20250101\",valid-before=\"20251231\"", false),
    ] {
        assert_eq!(
            verify(&deployer.allowed(options), &signature).is_ok(),
            allows,
            "{options}"
        );
    }
    let late = verify(&deployer.allowed("valid-before=\"20251231Z\""), &signature).unwrap_err();
    assert!(
        late.to_string()
            .contains("might sign until 2025-12-31T00:00:00Z"),
        "{late}"
    );
}

#[test]
fn a_line_that_cannot_be_read_fails_the_file_and_is_named() {
    let deployer = Deployer::new();
    for (options, problem) in [
        ("cert-authority", LineProblem::CertAuthority),
        (
            "namespaces=\"a\",cert-authority",
            LineProblem::CertAuthority,
        ),
        ("namespaces=a", LineProblem::Quote),
        ("namespaces=\"a", LineProblem::Quote),
        ("no-touch", LineProblem::Option("no-touch".into())),
        (
            "namespaces=\"a\",namespaces=\"b\"",
            LineProblem::Repeated("namespaces".into()),
        ),
        ("valid-after=\"2026\"", LineProblem::Time("2026".into())),
        (
            "valid-after=\"20261301Z\"",
            LineProblem::Time("20261301Z".into()),
        ),
        (
            "valid-after=\"20260102Z\",valid-before=\"20260101Z\"",
            LineProblem::NeverValid,
        ),
    ] {
        let text = format!("# who may deploy\n\n{}\n", deployer.line(options));
        let error = text.parse::<AllowedSigners>().unwrap_err();
        assert_eq!(error, LineError { number: 3, problem }, "{options}");
    }
    for line in [
        "alone",
        "deploy@example.org ssh-ed25519",
        "deploy@example.org ssh-ed25519 AAAA",
    ] {
        let error = line.parse::<AllowedSigners>().unwrap_err();
        assert_eq!(error.problem, LineProblem::Key, "{line}");
    }
    let path = deployer.write("allowed_signers", "x\n");
    let error = AllowedSigners::load(&path).unwrap_err().to_string();
    assert!(
        error.contains("allowed_signers: line 1: no public key"),
        "{error}"
    );
}

#[test]
fn a_threshold_counts_different_keys_and_not_signatures() {
    let (one, two, stranger) = (Deployer::new(), Deployer::new(), Deployer::new());
    let allowed: AllowedSigners = format!("{}\n{}\n", one.line(""), two.line(""))
        .parse()
        .unwrap();
    let count = |signatures: &[SshSignature], threshold| {
        let quorum = Quorum {
            signatures,
            threshold: NonZeroUsize::new(threshold).unwrap(),
        };
        allowed
            .verify_threshold(NAMESPACE, MESSAGE, quorum, NOW_UNIX_MS)
            .map(|signers| signers.len())
    };
    assert_eq!(count(&[one.sign(), two.sign(), stranger.sign()], 2), Ok(2));
    assert_eq!(count(&[one.sign()], 1), Ok(1));
    let twice = count(&[one.sign(), one.sign()], 2).unwrap_err();
    assert!(matches!(twice, SignatureError::TooFew { valid: 1, .. }));
    let text = count(&[one.sign(), stranger.sign()], 2)
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("1 of 2 signatures needed; signed by SHA256:"),
        "{text}"
    );
    assert!(text.ends_with("which is not an allowed signer"), "{text}");
    assert!(matches!(
        count(&[], 1),
        Err(SignatureError::TooFew { valid: 0, .. })
    ));
}

#[test]
fn a_key_file_is_read_back_and_refused_once_others_can_read_it() {
    let deployer = Deployer::new();
    let path = deployer.path("key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let public = fs::read_to_string(deployer.path("key.pub")).unwrap();
    assert!(
        public.trim_end().ends_with(" deploy@example.org"),
        "{public}"
    );
    let read = Signer::from_file(&path).unwrap();
    assert!(
        verify(
            &deployer.allowed(""),
            &read.sign(NAMESPACE, MESSAGE).unwrap()
        )
        .is_ok()
    );
    assert!(matches!(
        Signer::create(&path, ""),
        Err(SignError::File(crate::identity::FileError::Exists { .. }))
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let error = Signer::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_text_that_is_no_signature_is_refused_without_a_panic() {
    let armored: String = Deployer::new().sign().into();
    for text in [
        "",
        "-----BEGIN SSH SIGNATURE-----\n",
        &armored[..armored.len() / 2],
    ] {
        assert!(matches!(
            text.parse::<SshSignature>(),
            Err(ParseSignatureError::Format(_))
        ));
    }
    let long = "A".repeat(SSH_SIGNATURE_BYTES_MAX + 1);
    assert!(matches!(
        long.parse::<SshSignature>(),
        Err(ParseSignatureError::TooLong(_))
    ));
}

/// Whether a tool of OpenSSH is there; says so on a line of its own where it is not.
fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("-?").output().is_ok();
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

/// What stock OpenSSH says of our signature, given this file of allowed signers.
fn stock_accepts(deployer: &Deployer, allowed: &str, namespace: &str) -> bool {
    let allowed = deployer.write("allowed_signers", format!("{allowed}\n"));
    let signature = deployer.write("message.sig", deployer.sign().as_str());
    let message = deployer.write("message", MESSAGE);
    Command::new("ssh-keygen")
        .args([
            "-Y",
            "verify",
            "-I",
            "deploy@example.org",
            "-n",
            namespace,
            "-f",
        ])
        .arg(allowed)
        .arg("-s")
        .arg(signature)
        .stdin(File::open(message).unwrap())
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn stock_openssh_accepts_our_signature_in_its_namespace_and_no_other() {
    if !have("ssh-keygen") {
        return;
    }
    let deployer = Deployer::new();
    let line = allowed_signers_line(
        "deploy@example.org",
        "scap-release:*",
        deployer.signer.public_key(),
    );
    assert!(stock_accepts(&deployer, &line, NAMESPACE));
    assert!(!stock_accepts(
        &deployer,
        &line,
        "scap-release:staging:web/app"
    ));
    assert!(!stock_accepts(
        &deployer,
        &line,
        "scap-release:production:web/other"
    ));
    assert!(verify(&line.parse().unwrap(), &deployer.sign()).is_ok());
}

#[test]
fn stock_openssh_reads_allowed_signers_as_we_do() {
    if !have("ssh-keygen") {
        return;
    }
    let deployer = Deployer::new();
    let key = deployer.key_text();
    let stranger = Deployer::new().key_text();
    let file = |options: &str| deployer.line(options);
    let now_unix_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() * 1000;
    for text in [
        file(""),
        file("namespaces=\"scap-release:production:*\""),
        file("namespaces=\"scap-release:production:*,!*:web/app\""),
        file("namespaces=\"!*:web/app,*\""),
        file("namespaces=\"!file\""),
        file("namespaces=\"scap-release:?roduction:web*app\""),
        file("namespaces=scap-release:*"),
        file("Namespaces=\"*\""),
        file("namespaces=\"*\",namespaces=\"*\""),
        file("namespaces=\"*\","),
        file("namespaces=\"\""),
        file("unknown=\"*\""),
        file("valid-after=\"20200101Z\",namespaces=\"*\""),
        file("valid-after=\"20200101\""),
        file("valid-after=20200101"),
        file("valid-before=\"20200101Z\""),
        file("valid-before=\"203001012359Z\""),
        file("valid-after=\"20200101Z\",valid-before=\"20190101Z\""),
        file("valid-after=\"2020010Z\""),
        format!("\tdeploy@example.org   {key} a comment"),
        format!("\"deploy@example.org\" namespaces=\"*\"\t{key}"),
        format!("# comment\n\ndeploy@example.org {stranger}\ndeploy@example.org {key}"),
        format!("deploy@example.org {stranger}"),
        "deploy@example.org ssh-ed25519".into(),
    ] {
        let stock = stock_accepts(&deployer, &text, NAMESPACE);
        let ours = text.parse::<AllowedSigners>().is_ok_and(|allowed| {
            allowed
                .verify(NAMESPACE, MESSAGE, &deployer.sign(), now_unix_ms)
                .is_ok()
        });
        assert_eq!(ours, stock, "ours, stock: {text}");
    }
}

#[test]
fn we_accept_what_stock_openssh_signed_and_refuse_its_other_kinds_of_key() {
    if !have("ssh-keygen") {
        return;
    }
    let deployer = Deployer::new();
    let generate = |name: &str, kind: &str, passphrase: &str| {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "stock", "-f"])
            .arg(deployer.path(name))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::read_to_string(deployer.path(&format!("{name}.pub"))).unwrap()
    };
    let sign = |key: &str| -> String {
        let message = deployer.write("message", MESSAGE);
        let _ = fs::remove_file(deployer.path("message.sig"));
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"])
            .args([deployer.path(key), message])
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        fs::read_to_string(deployer.path("message.sig")).unwrap()
    };

    let public = generate("stock", "ed25519", "");
    let allowed: AllowedSigners = format!("stock {public}").parse().unwrap();
    let signature: SshSignature = sign("stock").parse().unwrap();
    assert_eq!(verify(&allowed, &signature).unwrap().principals, "stock");
    let read = Signer::from_file(&deployer.path("stock")).unwrap();
    let ours = read.sign(NAMESPACE, MESSAGE).unwrap();
    assert_eq!(ours.as_str().trim_end(), signature.as_str().trim_end());

    generate("locked", "ed25519", "secret");
    let error = Signer::from_file(&deployer.path("locked"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("locked is encrypted (hint: ssh-add it"),
        "{error}"
    );

    generate("ecdsa", "ecdsa", "");
    let error = Signer::from_file(&deployer.path("ecdsa")).unwrap_err();
    assert!(matches!(error, SignError::Kind { .. }), "{error}");
    let error = sign("ecdsa").parse::<SshSignature>().unwrap_err();
    assert!(matches!(error, ParseSignatureError::Key(_)), "{error}");
}

/// An ssh-agent of our own, ended with the test.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { child, socket };
        let begun = Instant::now();
        while let Err(error) = UnixStream::connect(&agent.socket) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "ssh-agent: {error}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_in_an_ssh_agent_signs_like_the_key_in_its_file() {
    if !have("ssh-agent") || !have("ssh-add") {
        return;
    }
    let deployer = Deployer::new();
    let other = Deployer::new();
    let agent = Agent::start(deployer.directory.path());
    for key in [other.path("key"), deployer.path("key")] {
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
    }
    let listed = agent_keys(&agent.socket).unwrap();
    assert_eq!(listed.len(), 2);
    let signer = Signer::from_agent(&agent.socket, deployer.signer.public_key()).unwrap();
    let signature = signer.sign(NAMESPACE, MESSAGE).unwrap();
    assert_eq!(signature, deployer.sign());
    assert!(verify(&deployer.allowed(""), &signature).is_ok());

    let absent = Deployer::new();
    let error = Signer::from_agent(&agent.socket, absent.signer.public_key()).unwrap_err();
    assert!(
        error.to_string().contains("does not hold SHA256:"),
        "{error}"
    );
    let socket = agent.socket.clone();
    drop(agent);
    let error = signer.sign(NAMESPACE, MESSAGE).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("connect to the ssh-agent at {}", socket.display())
    );
}
