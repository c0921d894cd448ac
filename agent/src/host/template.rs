//! Config files: templates in the language of Jinja2, rendered with the variables of the release and of this host.

use std::{
    collections::BTreeMap, error, io, panic, path::PathBuf, sync::Arc, thread, time::Instant,
};

use bytes::Bytes;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig,
};
use scap_proto::{
    content::RelPath,
    release::host_config::{ConfigFile, Destination, TEMPLATES},
};

use super::{
    HostWork, filters, format,
    vars::{AllVars, VarsError},
};
use crate::notation;

/// Most bytes of a template: as many as a file of a scap folder has.
const TEMPLATE_BYTES_MAX: u64 = 1024 * 1024;

/// Most bytes that all config files of a release have together. They are held in memory until they are written, on a host
/// that has other things to do; configuration is some kilobytes.
pub const RENDERED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The stack that templates are rendered on: values that a template put in each other are printed and dropped one in the other,
/// [`STEPS_MAX`] steps are enough for some 60,000, and each takes some kilobytes at most. What is not needed of it is not taken.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// What rendering one file may cost: a step each for what the engine does, and for each 64 bytes that it makes. So it ends in about a second and
/// takes at most 32 MB, whatever the template does. A line that is printed for each host of a large fleet costs some ten
/// steps a host.
const STEPS_MAX: u64 = 500_000;

/// A config file as it is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Where it goes.
    pub destination: Destination,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Why a config file cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// There are no variables.
    #[error("render {destination}")]
    Vars {
        /// The file.
        destination: String,
        /// Why.
        source: VarsError,
    },
    /// The template is wrong, or does not fit the variables.
    #[error("render {destination}: {TEMPLATES}/{template}:{line}: {problem}")]
    Template {
        /// The file.
        destination: String,
        /// The template that is wrong: the file's, or one that it includes.
        template: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// What it makes of a variable that only a host knows cannot be told without the host.
    #[error(
        "render {destination}: what it makes of {marker}, other than to print it, only a host knows"
    )]
    NeedsHost {
        /// The file.
        destination: String,
        /// What stands for the variable.
        marker: String,
    },
    /// There is no thread to render on.
    #[error("start rendering config files")]
    Start(#[source] io::Error),
    /// Whoever asks waits no longer.
    #[error("render {destination}: the files before it took all the time that there was")]
    Late {
        /// The first file that there was no time for, or one after it.
        destination: String,
    },
    /// All files together are more than configuration is.
    #[error("render {destination}: with the files before it more than {RENDERED_BYTES_MAX} bytes")]
    TooLong {
        /// The file that is too much.
        destination: String,
    },
}

impl HostWork<'_> {
    /// Renders all config files of the release, in their order, and writes nothing.
    ///
    /// # Errors
    /// [`RenderError`] of the first that cannot be rendered.
    pub fn render(&self) -> Result<Vec<Rendered>, RenderError> {
        let files = &self.config.config_files;
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let templates = Templates::InFolder(self.config_dir.join(TEMPLATES));
        on_a_large_stack(|| {
            let mut renderer = Renderer::new(&self.config.vars, templates);
            files.iter().map(|file| renderer.on_host(file)).collect()
        })
    }
}

/// What config files would be on this host, each by itself: a file that cannot be rendered stops no other. Nothing is written, and nothing
/// is read but the files of variables that they name.
///
/// # Errors
/// [`RenderError::Start`].
pub(crate) fn render_each(
    files: &[ConfigFile],
    vars: &str,
    templates: Arc<BTreeMap<RelPath, Bytes>>,
    until: Instant,
) -> Result<Vec<Result<Rendered, RenderError>>, RenderError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    on_a_large_stack(|| {
        let mut renderer = Renderer::new(vars, Templates::Held(templates));
        let render = |file: &ConfigFile| match Instant::now() < until {
            true => renderer.on_host(file),
            false => Err(RenderError::Late {
                destination: file.destination.to_string(),
            }),
        };
        Ok(files.iter().map(render).collect())
    })
}

/// Runs what renders on a stack that is large enough for it.
pub(super) fn on_a_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, RenderError> + Send,
) -> Result<T, RenderError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("render".into())
            .stack_size(STACK_BYTES);
        let rendering = thread.spawn_scoped(scope, work);
        let rendered = rendering.map_err(RenderError::Start)?.join();
        rendered.unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Where the templates of a release are.
#[derive(Debug, Clone)]
pub(super) enum Templates {
    /// Written out into this folder.
    InFolder(PathBuf),
    /// In memory, by their paths below [`TEMPLATES`].
    Held(Arc<BTreeMap<RelPath, Bytes>>),
}

impl Templates {
    /// The bytes of a template; `None` where it has more than [`TEMPLATE_BYTES_MAX`].
    fn read(&self, path: &RelPath) -> io::Result<Option<Bytes>> {
        match self {
            Self::InFolder(folder) => {
                let read = notation::read(&folder.join(path.as_path()), TEMPLATE_BYTES_MAX)?;
                Ok(read.map(Bytes::from))
            }
            Self::Held(all) => {
                let bytes = all.get(path).ok_or(io::ErrorKind::NotFound)?;
                let fits = bytes.len() as u64 <= TEMPLATE_BYTES_MAX;
                Ok(fits.then(|| bytes.clone()))
            }
        }
    }
}

/// Renders the config files of one release, one after the other.
pub(super) struct Renderer<'a> {
    /// The variables of the release, as in [`HostConfig::vars`](scap_proto::release::HostConfig::vars).
    of_release: &'a str,
    templates: Templates,
    /// Once they are read.
    vars: Option<AllVars>,
    /// Rendered so far.
    bytes: usize,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(of_release: &'a str, templates: Templates) -> Self {
        Self {
            of_release,
            templates,
            vars: None,
            bytes: 0,
        }
    }

    /// A file as it is on this host, with the variables that the host has for it.
    fn on_host(&mut self, file: &ConfigFile) -> Result<Rendered, RenderError> {
        let vars = |all: &mut AllVars, _: &Environment<'_>| {
            all.with(file.remote_vars.as_ref()).map(Value::from)
        };
        let bytes = self.render(file, vars)?.into_bytes();
        let destination = file.destination.clone();
        Ok(Rendered { destination, bytes })
    }

    /// The text of a file of the release; `vars` makes its variables from all that there are.
    pub(super) fn render(
        &mut self,
        file: &ConfigFile,
        vars: impl FnOnce(&mut AllVars, &Environment<'_>) -> Result<Value, VarsError>,
    ) -> Result<String, RenderError> {
        let destination = file.destination.to_string();
        let failed = |error: Error| template_error(file, &error);
        let environment = environment(file, self.templates.clone()).map_err(failed)?;
        let vars = self.all_vars().and_then(|all| vars(all, &environment));
        let vars = vars.map_err(|source| RenderError::Vars {
            destination: destination.clone(),
            source,
        })?;
        let name = file.template.as_path().to_string_lossy();
        let template = environment.get_template(&name).map_err(failed)?;
        let text = template.render(vars).map_err(failed)?;
        self.bytes += text.len();
        match self.bytes > RENDERED_BYTES_MAX {
            true => Err(RenderError::TooLong { destination }),
            false => Ok(text),
        }
    }

    fn all_vars(&mut self) -> Result<&mut AllVars, VarsError> {
        match &mut self.vars {
            Some(all) => Ok(all),
            none => Ok(none.insert(AllVars::of_release(self.of_release)?)),
        }
    }
}

/// The engine, set to be as much like Jinja2 with its defaults as it can.
fn environment(file: &ConfigFile, templates: Templates) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    if file.has_erb_syntax {
        let syntax = SyntaxConfig::builder()
            .block_delimiters("<%", "%>")
            .variable_delimiters("<%=", "%>")
            .comment_delimiters("<%#", "%>")
            .build()?;
        environment.set_syntax(syntax);
    }
    let format = file.format;
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_formatter(move |out, state, value| format::print(format, out, state, value));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    minijinja_contrib::add_to_environment(&mut environment);
    filters::add_to(&mut environment);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_loader(move |name| load(&templates, name));
    Ok(environment)
}

/// The text of a template; `None` where there is none of that name.
fn load(templates: &Templates, name: &str) -> Result<Option<String>, Error> {
    let Ok(path) = RelPath::new(name.to_owned()) else {
        return Ok(None);
    };
    let problem = |what: String| Error::new(ErrorKind::TemplateNotFound, what);
    match templates.read(&path) {
        Ok(Some(bytes)) => match notation::text(&bytes, &path.to_string().into()) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(at) => Err(problem(format!(
                "{TEMPLATES}/{at}: a byte that is not UTF-8"
            ))),
        },
        Ok(None) => Err(problem(format!(
            "{TEMPLATES}/{path} has more than {TEMPLATE_BYTES_MAX} bytes"
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(problem(format!("read {TEMPLATES}/{path}: {error}"))),
    }
}

/// The error of the engine that is the cause of all others: it is in the file where the mistake is.
fn template_error(file: &ConfigFile, error: &Error) -> RenderError {
    let mut innermost = error;
    let mut cause: Option<&(dyn error::Error + 'static)> = error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<Error>() {
            innermost = error;
        }
        cause = error.source();
    }
    // Where an error has no place of its own, it is that of the one around it.
    let place = if innermost.line().is_some() {
        innermost
    } else {
        error
    };
    let problem = match (innermost.kind(), innermost.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("more than {STEPS_MAX} steps, as in a loop without end; fewer were expected")
        }
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    RenderError::Template {
        destination: file.destination.to_string(),
        template: place.name().map_or_else(
            || file.template.to_string(),
            |name| name.escape_debug().to_string(),
        ),
        line: place.line().unwrap_or(1),
        problem: problem.escape_debug().take(PROBLEM_CHARS_MAX).collect(),
    }
}

/// Most of what is told of a problem: names of variables may be of any length.
const PROBLEM_CHARS_MAX: usize = 1000;
