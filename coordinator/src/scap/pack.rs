//! The config snapshot of a release: what hosts need of a scap folder, as files.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use scap_proto::release::HostConfig;

use super::{Scap, ScapError};
use crate::snapshot::{self, Built, ChunkSink, Options, Source};

impl Scap {
    /// Builds the config snapshot into `sink`: the file of [`HostConfig`], the templates and the scripts. `None` where hosts are
    /// asked to do nothing. The same folder gives the same snapshot, wherever it is built. Blocking.
    ///
    /// # Errors
    /// [`ScapError::TooLarge`], [`ScapError::Read`] of the temporary directory, [`ScapError::Pack`].
    pub fn pack(&self, sink: &dyn ChunkSink) -> Result<Option<Built>, ScapError> {
        if self.hosts.asks_nothing() {
            return Ok(None);
        }
        let host_config = self.hosts.encode().map_err(ScapError::Encode)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ScapError::Read { path, source }
        };
        let beside = std::env::temp_dir();
        let folder = tempfile::tempdir().map_err(failed(&beside))?;
        let path = folder.path().join(HostConfig::FILE);
        write(&path, &host_config, false).map_err(failed(&path))?;
        for (path, attachment) in &self.attachments {
            let path = folder.path().join(path.as_path());
            write(&path, &attachment.bytes, attachment.is_executable).map_err(failed(&path))?;
        }
        let source = Source::Directory(folder.path());
        let built = snapshot::build(source, sink, Options::default(), |_| {});
        built.map(Some).map_err(ScapError::Pack)
    }
}

fn write(path: &Path, bytes: &[u8], is_executable: bool) -> io::Result<()> {
    let folder = path.parent().expect("it is below the temporary directory");
    fs::create_dir_all(folder)?;
    let mode = if is_executable { 0o700 } else { 0o600 };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    // Whatever the umask: a file is executable where its owner may execute it.
    file.set_permissions(fs::Permissions::from_mode(mode))
}
