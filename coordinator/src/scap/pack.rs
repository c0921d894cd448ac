//! The config snapshot of a release: what hosts need of a scap folder, as files.

use scap_proto::{content::RelPath, release::HostConfig};

use super::{Scap, ScapError};
use crate::snapshot::{self, Built, ChunkSink, HeldFile, HeldFiles, Options, Source};

impl Scap {
    /// The files of the config snapshot: that of [`HostConfig`], the templates and the scripts. `None` where hosts are asked to do
    /// nothing.
    ///
    /// # Errors
    /// [`ScapError::Encode`].
    pub fn files(&self) -> Result<Option<HeldFiles>, ScapError> {
        if self.hosts.asks_nothing() {
            return Ok(None);
        }
        let host_config = HeldFile {
            bytes: self.hosts.encode().map_err(ScapError::Encode)?,
            is_executable: false,
        };
        let path = RelPath::new(HostConfig::FILE).expect("it is a plain name");
        let mut files = self.attachments.clone();
        files.insert(path, host_config);
        Ok(Some(files))
    }

    /// Builds the config snapshot into `sink`; `None` where hosts are asked to do nothing. The same folder gives the same snapshot,
    /// wherever it is built. Blocking.
    ///
    /// # Errors
    /// [`ScapError::Encode`], [`ScapError::Pack`].
    pub fn pack(&self, sink: &dyn ChunkSink) -> Result<Option<Built>, ScapError> {
        let Some(files) = self.files()? else {
            return Ok(None);
        };
        let built = snapshot::build(Source::Files(&files), sink, Options::default(), |_| {});
        built.map(Some).map_err(ScapError::Pack)
    }
}
