//! Content and its names: chunks, and the snapshot that says how files are made of them.
//!
//! A snapshot is content only. Its [`descriptor`] names two chunked objects: the *chunk list* (every
//! content chunk with its length, so that fetching can start at once) and the *entries* (what is at
//! each path). The descriptor is itself a chunk, whose id is the snapshot's. So all that a node
//! transfers is a numbered sequence of chunks, the [`layout`]. Who has an older snapshot may make most of those chunks
//! from it, by a [`delta`].
//!
//! Everything here is part of format version 1: the constants of the [`chunker`] and the rules by
//! which [`writer`] cuts pages decide ids. A change to them is a new descriptor magic.

pub mod chunk;
pub mod chunker;
pub mod delta;
pub mod descriptor;
pub mod entries;
pub mod layout;
pub mod path;
pub mod writer;

pub use chunk::{ChunkError, EncodedChunk, RawChunk};
pub use delta::DeltaError;
pub use descriptor::{ChunkRef, Descriptor, SnapshotRef, Totals};
pub use entries::{EntriesError, EntriesReader, Entry, Extent, FileContent, Node, SymlinkTarget};
pub use layout::Layout;
pub use path::{PathError, RelPath};
pub use writer::SnapshotWriter;
