//! Config files: templates in the language of Jinja2, rendered with the variables of the release and of this host.

use std::{
    error, io, panic,
    path::{Path, PathBuf},
    thread,
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, syntax::SyntaxConfig,
};
use scap_proto::{
    content::RelPath,
    release::host_config::{ConfigFile, Destination, TEMPLATES},
};

use super::{
    HostWork, filters, format,
    vars::{AllVars, Vars, VarsError},
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
    /// There is no thread to render on.
    #[error("start rendering config files")]
    Start(#[source] io::Error),
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
        if self.config.config_files.is_empty() {
            return Ok(Vec::new());
        }
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("render".into())
                .stack_size(STACK_BYTES);
            let rendering = thread.spawn_scoped(scope, || self.render_here());
            let rendered = rendering.map_err(RenderError::Start)?.join();
            rendered.unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    fn render_here(&self) -> Result<Vec<Rendered>, RenderError> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        let mut vars = None;
        for file in &self.config.config_files {
            let destination = name_of(&file.destination);
            let vars = self
                .vars(&mut vars, file)
                .map_err(|source| RenderError::Vars {
                    destination: destination.clone(),
                    source,
                })?;
            let templates = self.config_dir.join(TEMPLATES);
            let text =
                render(file, templates, vars).map_err(|error| template_error(file, &error))?;
            bytes += text.len();
            if bytes > RENDERED_BYTES_MAX {
                return Err(RenderError::TooLong { destination });
            }
            files.push(Rendered {
                destination: file.destination.clone(),
                bytes: text.into_bytes(),
            });
        }
        Ok(files)
    }

    /// The variables for a file; `all` is for the next one.
    fn vars(&self, all: &mut Option<AllVars>, file: &ConfigFile) -> Result<Vars, VarsError> {
        let all = match all {
            Some(all) => all,
            None => all.insert(AllVars::of_release(&self.config.vars)?),
        };
        all.with(file.remote_vars.as_ref())
    }
}

fn render(file: &ConfigFile, templates: PathBuf, vars: Vars) -> Result<String, Error> {
    let environment = environment(file, templates)?;
    let name = file.template.as_path().to_string_lossy();
    environment.get_template(&name)?.render(vars)
}

/// The engine, set to be as much like Jinja2 with its defaults as it can.
fn environment(file: &ConfigFile, templates: PathBuf) -> Result<Environment<'static>, Error> {
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
fn load(templates: &Path, name: &str) -> Result<Option<String>, Error> {
    let Ok(path) = RelPath::new(name.to_owned()) else {
        return Ok(None);
    };
    let problem = |what: String| Error::new(ErrorKind::TemplateNotFound, what);
    match notation::read(&templates.join(path.as_path()), TEMPLATE_BYTES_MAX) {
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

/// What people call a file.
fn name_of(destination: &Destination) -> String {
    match destination {
        Destination::OnHost(path) => path.to_string(),
        Destination::InRelease(path) => path.to_string(),
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
        destination: name_of(&file.destination),
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
