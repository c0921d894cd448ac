//! `config-files.yaml`: what is rendered from templates.

use std::{collections::BTreeMap, path::Path};

use scap_proto::{
    content::RelPath,
    release::host_config::{ConfigFile, Destination, HostPath, OutputFormat, TEMPLATES},
};

use super::{
    checks::take_text,
    document::{Expect, Key, Map, Value, finish},
    error::{Notice, ScapError, did_you_mean},
    files::File,
    settings::shown,
};

pub(super) const FIELDS: [&str; 4] = ["template", "remote_vars", "output_format", "erb_syntax"];

/// The config files of a map from destinations to what they are made from, in the order of the destinations.
pub(super) fn config_files(
    bodies: Map,
    templates: &BTreeMap<&str, &File>,
    notices: &mut Vec<Notice>,
) -> Result<Vec<ConfigFile>, ScapError> {
    let mut files = Vec::new();
    for (destination, body) in bodies.0 {
        let body = body.into_map(&format!("config file `{}`", shown(&destination.name)))?;
        files.push(config_file(&destination, body, templates, notices)?);
    }
    files.sort_by(|a: &ConfigFile, b| a.destination.cmp(&b.destination));
    Ok(files)
}

fn config_file(
    destination: &Key,
    mut body: Map,
    templates: &BTreeMap<&str, &File>,
    notices: &mut Vec<Notice>,
) -> Result<ConfigFile, ScapError> {
    let what = format!("config file `{}`", shown(&destination.name));
    let mut text = |field: &str| take_text(&mut body, &what, field);
    let template = text("template")?;
    let remote_vars = text("remote_vars")?;
    let format = text("output_format")?;
    let has_erb_syntax = match body.take("erb_syntax") {
        None => false,
        Some((_, node)) => match node.value {
            Value::Bool(has_erb_syntax) => has_erb_syntax,
            _ => return Err(node.expected(&format!("`erb_syntax` of {what}"), "yes or no")),
        },
    };
    finish(body, &what, &FIELDS, Some(notices))?;

    let Some((template, template_at)) = template else {
        let problem = format!("{what} has no `template`, the name of a file in {TEMPLATES}/");
        return Err(ScapError::invalid(&destination.at, problem));
    };
    if !templates.contains_key(template.as_str()) {
        let hint = did_you_mean(&template, templates.keys().copied());
        let problem = format!("{what}: there is no {TEMPLATES}/{}{hint}", shown(&template));
        return Err(ScapError::invalid(&template_at.at, problem));
    }
    let format = match &format {
        None => guess(&destination.name),
        Some((format, _)) if matches!(format.as_str(), "yaml" | "yml") => OutputFormat::Yaml,
        Some((format, at)) => {
            let problem = format!(
                "`output_format` of {what} is `{}`; yaml or yml was expected",
                shown(format)
            );
            return Err(ScapError::invalid(&at.at, problem));
        }
    };
    let remote_vars = remote_vars.map(|(path, at)| {
        HostPath::new(&path).map_err(|error| {
            ScapError::invalid(&at.at, format!("`remote_vars` of {what}: {error}"))
        })
    });
    let place = |problem: &dyn std::error::Error| {
        ScapError::invalid(
            &destination.at,
            format!("the destination of {what}: {problem}"),
        )
    };
    Ok(ConfigFile {
        destination: match destination.name.starts_with('/') {
            true => Destination::OnHost(
                HostPath::new(&destination.name).map_err(|error| place(&error))?,
            ),
            false => Destination::InRelease(
                RelPath::new(destination.name.to_string()).map_err(|error| place(&error))?,
            ),
        },
        template: RelPath::new(template)
            .map_err(|error| ScapError::invalid(&template_at.at, error.to_string()))?,
        remote_vars: remote_vars.transpose()?,
        format,
        has_erb_syntax,
    })
}

/// How values are written where it is not said: by the destination's extension.
fn guess(destination: &str) -> OutputFormat {
    match Path::new(destination)
        .extension()
        .and_then(|it| it.to_str())
    {
        Some("yaml" | "yml") => OutputFormat::Yaml,
        _ => OutputFormat::Python,
    }
}
