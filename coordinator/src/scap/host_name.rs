//! What this machine is called in full, which names sections of `scap.cfg`.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use super::{
    error::{Origin, ScapError},
    ini::{DEFAULT, GLOBAL, Ini},
    settings::shown,
};

/// How long the system may take to find its name: it may ask a name server, which may not answer.
const FINDING_MAX: Duration = Duration::from_secs(5);

/// The full name of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// As somebody says, and taken as it is.
    Said(String),
    /// As the system has it: one without a domain is perhaps not all of it.
    Found(String),
}

impl Default for HostName {
    fn default() -> Self {
        Self::Said(String::new())
    }
}

impl HostName {
    /// That of this machine: as the kernel has it, if that has a domain, else as `hostname --fqdn` finds it within 5 s; what
    /// the kernel has where that finds none. It is looked for once. Blocking.
    pub fn of_machine() -> Self {
        static FOUND: OnceLock<String> = OnceLock::new();
        let find = || {
            let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let own = own.trim();
            if own.contains('.') {
                return own.to_owned();
            }
            let mut command = Command::new("hostname");
            command.arg("--fqdn");
            said(command, FINDING_MAX).unwrap_or_else(|| own.to_owned())
        };
        Self::Found(FOUND.get_or_init(find).clone())
    }

    /// The name; empty where nobody knows one.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Said(name) | Self::Found(name) => name,
        }
    }

    /// That it says which sections of `files` are for this machine.
    ///
    /// # Errors
    /// [`ScapError::Invalid`] where its domain was not found, and a section is perhaps named like it.
    pub(super) fn check(&self, files: &[Ini]) -> Result<(), ScapError> {
        let Self::Found(name) = self else {
            return Ok(());
        };
        if name.contains('.') {
            return Ok(());
        }
        let mut sections = files.iter().flat_map(|ini| &ini.sections);
        let found = sections.find_map(|(section, entries)| {
            let first = entries.first()?;
            let is_meant = !matches!(section.as_str(), DEFAULT | GLOBAL) && may_be_domain(section);
            is_meant.then_some((section, &first.at))
        });
        let Some((section, at)) = found else {
            return Ok(());
        };
        let problem = format!(
            "section [{}] is perhaps for this machine, whose domain was not found (it is called `{}`); --host-name says its \
             full name",
            shown(section),
            shown(name)
        );
        Err(ScapError::invalid(&Origin::clone(at), problem))
    }
}

fn may_be_domain(section: &str) -> bool {
    let is_label = |label: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.chars().all(is_letter)
    };
    section.split('.').all(is_label)
}

/// What a command that succeeds prints, if it does so in time.
fn said(mut command: Command, limit: Duration) -> Option<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let is_read = stdout.read_to_string(&mut text).is_ok();
        let _ = tell.send(is_read.then_some(text));
    });
    let Ok(text) = told.recv_timeout(limit) else {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    };
    let is_done = child.wait().ok()?.success();
    let text = text?.trim().to_owned();
    (is_done && !text.is_empty()).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_name_without_its_domain_is_refused_where_a_section_may_be_for_it() {
        let ini = |text: &str| Ini::parse(text.as_bytes(), &"f".into()).unwrap();
        let plain = ini("[DEFAULT]\na: 1\n[global]\nb: 1\n[a domain]\nc: 1\n[empty.org]\n");
        let special = ini("[global]\na: 1\n[example.org]\nb: 2\n");
        let found = |name: &str| HostName::Found(name.into());
        for name in ["", "d1"] {
            assert!(found(name).check(std::slice::from_ref(&plain)).is_ok());
            let error = found(name).check(&[plain.clone(), special.clone()]);
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with("f:4: section [example.org] is perhaps"),
                "{error}"
            );
            assert!(error.contains("--host-name"), "{error}");
        }
        assert!(
            found("d1.example.net")
                .check(std::slice::from_ref(&special))
                .is_ok()
        );
        assert!(HostName::Said("d1".into()).check(&[special]).is_ok());
    }

    #[test]
    fn a_command_is_waited_for_as_long_as_it_may_take() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let long = Duration::from_secs(60);
        let name = said(shell("echo d1.example.org"), long);
        assert_eq!(name.as_deref(), Some("d1.example.org"));
        assert_eq!(said(shell("echo d1; exit 1"), long), None);
        assert_eq!(said(shell("echo"), long), None);
        let began = Instant::now();
        assert_eq!(
            said(shell("exec sleep 600"), Duration::from_millis(50)),
            None
        );
        assert!(began.elapsed() < long);
    }
}
