//! Config files without a host: what they are, as far as a release alone says it.
//!
//! They are rendered by the code that hosts run. What only a host knows, the variables of the file that `remote_vars` names, is
//! not made up: each stands in the text as its name between `⟦` and `⟧`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use minijinja::{
    Environment, Error, State, Value,
    value::{Object, ObjectRepr},
};
use scap_proto::{
    content::RelPath,
    release::{
        HostConfig,
        host_config::{ConfigFile, HostPath},
    },
};

use super::{
    RenderError,
    template::{Renderer, Templates, on_a_large_stack},
    vars::{AllVars, Vars},
};

/// A config file as the release alone has it.
#[derive(Debug)]
pub struct Preview {
    /// The text, with markers for what only hosts know; or why there is none without that.
    pub text: Result<String, RenderError>,
    /// Where hosts may have other variables.
    pub host_vars: Option<HostVars>,
}

/// The variables that only hosts know of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVars {
    /// The file on the host that they are in. What it has also wins over variables of the release.
    pub file: HostPath,
    /// The names that the template asks for and the release does not have.
    pub names: BTreeSet<String>,
}

/// Renders all config files of a release, in their order, and reads nothing: `templates` are all there are, by their paths below
/// [`TEMPLATES`](scap_proto::release::host_config::TEMPLATES). A template that decides by a variable of the host is rendered as if
/// there was some text in it.
///
/// # Errors
/// [`RenderError`] of the first file that no host could render, as far as that can be told: what fails only once a variable of the
/// host was asked for is told with its file.
pub fn preview(
    config: &HostConfig,
    templates: &Arc<BTreeMap<RelPath, Bytes>>,
) -> Result<Vec<Preview>, RenderError> {
    if config.config_files.is_empty() {
        return Ok(Vec::new());
    }
    let templates = Templates::Held(templates.clone());
    on_a_large_stack(|| {
        let mut renderer = Renderer::new(config, templates);
        let files = config.config_files.iter();
        files.map(|file| preview_one(&mut renderer, file)).collect()
    })
}

fn preview_one(renderer: &mut Renderer<'_>, file: &ConfigFile) -> Result<Preview, RenderError> {
    let names = Names::default();
    let vars = |all: &mut AllVars, environment: &Environment<'_>| {
        let of_release = all.without_host().clone();
        Ok(match file.remote_vars {
            None => Value::from(of_release),
            Some(_) => Value::from_object(Known {
                of_release,
                globals: environment
                    .globals()
                    .map(|(name, _)| name.to_owned())
                    .collect(),
                asked: names.clone(),
            }),
        })
    };
    let text = renderer.render(file, vars);
    let names = names.taken();
    let may_be_the_hosts =
        |error: &RenderError| !names.is_empty() && matches!(error, RenderError::Template { .. });
    let text = match text {
        Err(error) if !may_be_the_hosts(&error) => return Err(error),
        text => text,
    };
    let host_vars = file.remote_vars.clone();
    Ok(Preview {
        text,
        host_vars: host_vars.map(|file| HostVars { file, names }),
    })
}

/// Names that were asked for.
#[derive(Debug, Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    fn add(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned());
    }

    fn taken(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All variables of a template: those of the release, and for all others what stands for them.
#[derive(Debug)]
struct Known {
    of_release: Vars,
    /// What the engine itself has; variables would hide it.
    globals: BTreeSet<String>,
    asked: Names,
}

/// What the engine looks for and sets itself.
const OWN_NAMES: [&str; 3] = ["loop", "self", "caller"];

impl Object for Known {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let known = self.of_release.get(name);
        if known.is_some() || self.globals.contains(name) || OWN_NAMES.contains(&name) {
            return known.cloned();
        }
        self.asked.add(name);
        Some(Value::from_object(Marker(name.to_owned())))
    }
}

/// What stands for a value of the host, by how the template names it.
#[derive(Debug)]
struct Marker(String);

impl Object for Marker {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let of = match key.as_str() {
            Some(name) => format!("{}.{name}", self.0),
            None => format!("{}[{key}]", self.0),
        };
        Some(Value::from_object(Self(of)))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value, Error> {
        let of = format!("{}.{method}()", self.0);
        Ok(Value::from_object(Self(of)))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "⟦{}⟧", self.0)
    }
}
