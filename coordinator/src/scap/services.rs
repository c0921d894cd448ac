//! `service_name` and what belongs to it.

use std::num::NonZeroU32;

use scap_proto::release::host_config::{HostPath, Service, ServiceAction, Services};

use super::{
    error::{Origin, ScapError},
    settings::{Settings, shown},
};

/// What is done with services once a release is promoted.
pub(super) fn services(settings: &Settings) -> Result<Services, ScapError> {
    let units = match settings.list("service_name") {
        None => Vec::new(),
        Some((names, at)) => names
            .into_iter()
            .map(|name| service(name, at))
            .collect::<Result<_, _>>()?,
    };
    let port = settings.parse("service_port", "a port from 1 to 65535", |text| {
        text.parse().ok().filter(|port: &u16| *port != 0)
    })?;
    let timeout = settings.seconds("service_timeout")?.unwrap_or_default();
    let millis = u32::try_from(timeout.as_millis()).expect("30 days are fewer");
    Ok(Services {
        units,
        port,
        // No time at all is a first look and no second one.
        port_timeout_millis: NonZeroU32::new(millis).unwrap_or(NonZeroU32::MIN),
        skips_unknown: settings.flag("require_valid_service")?,
        secondary_signal_file: host_path(settings, "secondary_host_signal_file")?,
    })
}

/// An absolute path, which has a default.
pub(super) fn host_path(settings: &Settings, key: &str) -> Result<HostPath, ScapError> {
    let path = settings.parse(key, "an absolute path", |text| HostPath::new(text).ok())?;
    path.ok_or_else(|| {
        ScapError::invalid(
            &Origin::Default,
            format!("`{key}` is blank; an absolute path was expected"),
        )
    })
}

/// `name`, `name=reload` or `name=restart:disable-secondary`.
fn service(text: &str, at: &Origin) -> Result<Service, ScapError> {
    let (name, how) = text.split_once('=').unwrap_or((text, "restart"));
    let (action, secondary) = match how.split_once(':') {
        Some((action, secondary)) => (action, Some(secondary)),
        None => (how, None),
    };
    let action = match action.trim() {
        "restart" => Some(ServiceAction::Restart),
        "reload" => Some(ServiceAction::Reload),
        _ => None,
    };
    let is_disabled_on_secondary = match secondary.map(str::trim) {
        None => Some(false),
        Some("disable-secondary") => Some(true),
        Some(_) => None,
    };
    let name = name.trim();
    // What systemd allows in the name of a unit; a `-` first would be an option.
    let is_unit =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    let is_name = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_unit);
    match (action, is_disabled_on_secondary, is_name) {
        (Some(action), Some(is_disabled_on_secondary), true) => Ok(Service {
            name: name.into(),
            action,
            is_disabled_on_secondary,
        }),
        _ => Err(ScapError::invalid(
            at,
            format!(
                "`{}` of `service_name`; a unit, or `unit=restart` or `unit=reload`, each with or without \
                 `:disable-secondary` after it, was expected",
                shown(text)
            ),
        )),
    }
}
