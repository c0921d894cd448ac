//! Real processes, files and sockets: what a host does of a release.

mod checks;
mod jinja;
mod preview;
mod services;
mod templates;

use std::{fs, num::NonZeroU32, path::PathBuf};

use scap_proto::{
    id::NodeId,
    release::{
        HostConfig,
        host_config::{
            Check, Command, HostGroup, HostPath, HostStage, Moment, SCRIPTS, Services, TEMPLATES,
        },
    },
};
use tempfile::TempDir;

use super::{HostWork, Paths, ServiceCommands};

/// A host, its directory, and what a release asks of it.
struct Host {
    config: HostConfig,
    id: NodeId,
    paths: Paths,
    services: ServiceCommands,
    running: PathBuf,
    /// Goes last.
    directory: TempDir,
}

impl Host {
    /// One of which nothing is asked.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in [SCRIPTS, TEMPLATES, "nrpe"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let host_path = |name: &str| {
            let path = directory.path().join(name);
            HostPath::new(path.to_str().unwrap()).unwrap()
        };
        let revs = PathBuf::from("/srv/deployment/mock/deploy-cache/revs");
        Self {
            config: HostConfig {
                environment: "production".parse().unwrap(),
                config_files: Vec::new(),
                vars: "{}".into(),
                checks: Vec::new(),
                groups: Vec::new(),
                services: Services {
                    units: Vec::new(),
                    port: None,
                    port_timeout_millis: NonZeroU32::new(60_000).unwrap(),
                    skips_unknown: false,
                    secondary_signal_file: host_path("secondary"),
                },
                nrpe_directory: host_path("nrpe"),
                cache_revs: NonZeroU32::new(5).unwrap(),
                extensions: scap_proto::extensions::Extensions::default(),
            },
            id: "web-1".parse().unwrap(),
            paths: Paths {
                final_path: "/srv/deployment/mock/deploy".into(),
                rev_path: revs.join("new"),
                current_rev_dir: Some(revs.join("old")),
                done_rev_dir: None,
                revs_dir: revs,
            },
            services: ServiceCommands::default(),
            running: directory.path().join("running"),
            directory,
        }
    }

    fn work(&self) -> HostWork<'_> {
        HostWork {
            config: &self.config,
            config_dir: self.directory.path(),
            host: &self.id,
            paths: &self.paths,
            services: &self.services,
            running: &self.running,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn host_path(&self, name: &str) -> HostPath {
        HostPath::new(self.path(name).to_str().unwrap()).unwrap()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A check after promote, with a minute's time.
    fn adds_check(&mut self, name: &str, command: Command) -> &mut Check {
        self.config.checks.push(Check {
            name: name.into(),
            command,
            moment: Moment::After,
            stage: HostStage::Promote,
            group: None,
            timeout_millis: NonZeroU32::new(60_000).unwrap(),
        });
        self.config.checks.last_mut().unwrap()
    }

    fn is_in_group(&mut self, name: &str, hosts: &[&str]) {
        self.config.groups.push(HostGroup {
            name: name.into(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        });
    }
}
