//! Real processes, files and sockets: what a host does of a release.
