//! Why the daemon does not run.

use std::path::PathBuf;

use scap_proto::place::PlaceError;

use super::{SavedError, TrustKeptError};
use crate::{node::StartError, store::StoreError, trust::TrustError};

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The identity directory.
    #[error("load the identity in {path}")]
    Trust {
        /// Where.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
    /// The data directory or the identity directory is not there, or not ours alone.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The chunk store.
    #[error("open the chunk store")]
    Store(#[from] StoreError),
    /// The saved state.
    #[error("read the saved state")]
    Saved(#[from] SavedError),
    /// Whose certificates count.
    #[error(transparent)]
    TrustKept(#[from] TrustKeptError),
    /// The network.
    #[error("start the node")]
    Node(#[from] StartError),
    /// The local API.
    #[error("start the local API")]
    Api(#[source] std::io::Error),
    /// What starts the activator ended by itself, and a confined daemon cannot start it again.
    #[error("what starts the activator died; a daemon that is started anew has it again")]
    KeeperEnded,
    /// A part of the node ended by itself.
    #[error("the node ended by itself; the log above says why")]
    NodeEnded,
}
