//! The variables of templates: those of the release, and over them those of a file on this host.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use minijinja::Value;
use scap_proto::release::host_config::HostPath;

use crate::notation::{
    self,
    node::{self, Node},
    yaml::{self, YamlError},
};

/// Most bytes of a file of variables: puppet writes some kilobytes, and the release's own file may have as much.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there are no variables to render with.
#[derive(Debug, thiserror::Error)]
pub enum VarsError {
    /// Those of the release are no JSON object.
    #[error("read the variables of the release")]
    Release(#[source] serde_json::Error),
    /// The file cannot be read.
    #[error("read the variables of this host, {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than variables are.
    #[error("{} has more than {FILE_BYTES_MAX} bytes, which is no file of variables", .0.display())]
    TooLong(PathBuf),
    /// The file is no YAML.
    #[error("read the variables of this host")]
    Yaml(#[source] YamlError),
    /// The file is something else than a map.
    #[error("{at}: {kind}; a map of variables was expected")]
    NotAMap {
        /// Where it begins.
        at: notation::Place,
        /// What it is.
        kind: &'static str,
    },
}

/// Variables by their names.
pub(super) type Vars = BTreeMap<String, Value>;

/// The variables of one release; each file of this host is read once, so that all templates see the same.
#[derive(Debug)]
pub(super) struct AllVars {
    of_release: Vars,
    of_host: BTreeMap<HostPath, Vars>,
}

impl AllVars {
    /// Those of a release: a JSON object.
    pub(super) fn of_release(json: &str) -> Result<Self, VarsError> {
        Ok(Self {
            of_release: serde_json::from_str(json).map_err(VarsError::Release)?,
            of_host: BTreeMap::new(),
        })
    }

    /// Those of the release, without those of any host.
    pub(super) fn without_host(&self) -> &Vars {
        &self.of_release
    }

    /// Those for a template that also has those of a file on this host, which win: a whole variable, not what is in it.
    pub(super) fn with(&mut self, file: Option<&HostPath>) -> Result<Vars, VarsError> {
        let mut vars = self.of_release.clone();
        let Some(file) = file else {
            return Ok(vars);
        };
        if !self.of_host.contains_key(file) {
            self.of_host.insert(file.clone(), read(&file.to_path())?);
        }
        vars.extend(self.of_host[file].clone());
        Ok(vars)
    }
}

fn read(path: &Path) -> Result<Vars, VarsError> {
    let bytes = notation::read(path, FILE_BYTES_MAX).map_err(|source| VarsError::Read {
        path: path.into(),
        source,
    })?;
    let bytes = bytes.ok_or_else(|| VarsError::TooLong(path.into()))?;
    let name = path.to_string_lossy().escape_debug().to_string();
    let node = yaml::parse(&bytes, &name.into()).map_err(VarsError::Yaml)?;
    let (at, kind) = (node.at.clone(), node.kind());
    match node.value {
        node::Value::Null => Ok(Vars::new()),
        node::Value::Map(map) => {
            let var = |(key, node): (node::Key, Node)| (key.name.to_string(), value(&node));
            Ok(map.0.into_iter().map(var).collect())
        }
        _ => Err(VarsError::NotAMap { at, kind }),
    }
}

/// A value for templates, its keys in the order of the file.
fn value(node: &Node) -> Value {
    match &node.value {
        node::Value::Null => Value::from(()),
        node::Value::Bool(value) => Value::from(*value),
        node::Value::Int(value) => Value::from(*value),
        node::Value::Float(value) => Value::from(*value),
        node::Value::Text(value) => Value::from(value.as_str()),
        node::Value::List(nodes) => nodes.iter().map(value).collect(),
        node::Value::Map(map) => {
            let pairs = map.0.iter();
            Value::from_pairs(pairs.map(|(key, node)| (&*key.name, value(node))))
        }
    }
}
