//! Config files without a host: what they are, as far as a release alone says it.
//!
//! They are rendered by the code that hosts run. What only a host knows, the variables of the file that `remote_vars` names, is
//! not made up: each stands in the text as its name between `⟦` and `⟧`. What a template makes of one, other than to print it, would
//! look like a value of the host: there is no text then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
        let mut renderer = Renderer::new(&config.vars, templates);
        let files = config.config_files.iter();
        files.map(|file| preview_one(&mut renderer, file)).collect()
    })
}

fn preview_one(renderer: &mut Renderer<'_>, file: &ConfigFile) -> Result<Preview, RenderError> {
    let seen = Shared::default();
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
                seen: seen.clone(),
            }),
        })
    };
    let text = renderer.render(file, vars);
    let Seen { names, written } = seen.take();
    let text = match text {
        // It fails for every host.
        Err(error) if names.is_empty() || !matches!(error, RenderError::Template { .. }) => {
            return Err(error);
        }
        Ok(text) => match altered(&text, &written) {
            None => Ok(text),
            Some(marker) => Err(RenderError::NeedsHost {
                destination: file.destination.to_string(),
                marker,
            }),
        },
        error => error,
    };
    let host_vars = file.remote_vars.clone();
    Ok(Preview {
        text,
        host_vars: host_vars.map(|file| HostVars { file, names }),
    })
}

/// The marker that is not in the text as often as it was written: something else was made of it.
fn altered(text: &str, written: &BTreeMap<String, usize>) -> Option<String> {
    let mut written = written.iter();
    let (marker, _) = written.find(|(marker, count)| text.matches(*marker).count() < **count)?;
    Some(marker.clone())
}

/// What a template did with variables of the host.
#[derive(Debug, Default)]
struct Seen {
    /// Those that it asked for.
    names: BTreeSet<String>,
    /// How often which marker became text, be it that of the file or not.
    written: BTreeMap<String, usize>,
}

/// Of all values of a template.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Seen {
        mem::take(&mut *self.lock())
    }

    /// What stands for a value of the host.
    fn marker(&self, name: String) -> Value {
        let seen = self.clone();
        Value::from_object(Marker { name, seen })
    }
}

/// All variables of a template: those of the release, and for all others what stands for them.
struct Known {
    of_release: Vars,
    /// What the engine itself has; variables would hide it.
    globals: BTreeSet<String>,
    seen: Shared,
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
        self.seen.lock().names.insert(name.to_owned());
        Some(self.seen.marker(name.to_owned()))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.of_release).finish()
    }
}

/// What stands for a value of the host, by how the template names it.
struct Marker {
    name: String,
    seen: Shared,
}

impl Object for Marker {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = &self.name;
        Some(self.seen.marker(match key.as_str() {
            Some(key) => format!("{name}.{key}"),
            None => format!("{name}[{key}]"),
        }))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value, Error> {
        Ok(self.seen.marker(format!("{}.{method}()", self.name)))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// As a list prints it, too.
impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marker = format!("⟦{}⟧", self.name);
        f.write_str(&marker)?;
        *self.seen.lock().written.entry(marker).or_default() += 1;
        Ok(())
    }
}
