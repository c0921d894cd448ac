use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use scap_proto::{
    content::RelPath,
    release::host_config::{HostPath, OutputFormat},
};

use super::Host;
use crate::host::{Preview, RenderError, preview};

/// Templates in memory.
fn held(templates: &[(&str, &str)]) -> Arc<BTreeMap<RelPath, Bytes>> {
    let held = templates.iter().map(|(path, text)| {
        let path = RelPath::new((*path).to_owned()).unwrap();
        (path, Bytes::from((*text).to_owned()))
    });
    Arc::new(held.collect())
}

/// The preview of one file, which is rendered from `template` with the others of `templates` beside it.
fn previewed(
    host: &mut Host,
    template: &str,
    others: &[(&str, &str)],
) -> Result<Preview, RenderError> {
    let format = OutputFormat::Yaml;
    let remote = HostPath::new("/etc/app/vars.yaml").unwrap();
    host.has_template(template, format).remote_vars = Some(remote);
    let templates = [&[("app.j2", template)], others].concat();
    let mut files = preview(&host.config, &held(&templates))?;
    Ok(files.remove(0))
}

fn names(file: &Preview) -> Vec<&str> {
    let names = &file.host_vars.as_ref().unwrap().names;
    names.iter().map(String::as_str).collect()
}

#[test]
fn what_only_a_host_knows_stands_there_by_its_name() {
    let mut host = Host::new();
    host.config.vars = r#"{"port": 80, "on": true}"#.into();
    for (template, text, asked) in [
        (
            "{{ port }} {{ on }} {{ range(2) | list }}",
            "80 true [0, 1]",
            &[][..],
        ),
        ("at {{ host }}", "at ⟦host⟧", &["host"]),
        (
            "{{ db.host }}:{{ db.ports[0] }}",
            "⟦db.host⟧:⟦db.ports[0]⟧",
            &["db"],
        ),
        (
            "{{ db.get('x') }} {{ a ~ '/b' }}",
            "⟦db.get()⟧ ⟦a⟧/b",
            &["a", "db"],
        ),
        ("{{ [a, 1] }} {{ a | tojson }}", "[⟦a⟧, 1] \"⟦a⟧\"", &["a"]),
        (
            "{% if a %}yes{% endif %} {{ b | default(1) }}",
            "yes ⟦b⟧",
            &["a", "b"],
        ),
        (
            "{% set a = 1 %}{% for b in [2] %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}",
            "121",
            &[],
        ),
        (
            "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(y) }}",
            "<⟦y⟧>",
            &["y"],
        ),
        ("{% include 'part.j2' %}", "part ⟦z⟧ 80", &["z"]),
    ] {
        let file = previewed(
            &mut host,
            template,
            &[("part.j2", "part {{ z }} {{ port }}")],
        );
        let file = file.unwrap();
        assert_eq!(file.text.as_deref().unwrap(), text, "{template}");
        assert_eq!(names(&file), asked, "{template}");
    }
}

#[test]
fn what_cannot_be_told_without_a_host_is_told_with_the_file_and_all_else_is_an_error() {
    let mut host = Host::new();
    for (template, says, asked) in [
        (
            "a\n{% for x in servers %}{% endfor %}",
            "templates/app.j2:2: ",
            ["servers"],
        ),
        ("{{ a + 1 }}", "templates/app.j2:1: ", ["a"]),
        ("{{ a | upper }}", "what it makes of ⟦a⟧", ["a"]),
        (
            "{{ a }} {{ a.b }} {{ a.b | urlencode }}",
            "what it makes of ⟦a.b⟧",
            ["a"],
        ),
        ("{{ a | replace('a', 'b') }}", "what it makes of ⟦a⟧", ["a"]),
    ] {
        let file = previewed(&mut host, template, &[]).unwrap();
        assert_eq!(names(&file), asked, "{template}");
        let error = crate::error_chain(&file.text.unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    for template in [
        "a\n{{ 1 | nothing }}",
        "a\n{% if %}",
        "a\n{% include 'b' %}",
    ] {
        let error = previewed(&mut host, template, &[]).unwrap_err();
        let error = crate::error_chain(&error);
        assert!(error.contains("templates/app.j2:2: "), "{error}");
    }
}

#[test]
fn a_marker_is_the_same_in_a_list_that_is_printed_as_python_does() {
    let mut host = Host::new();
    let template = "{{ [a, {'k': a.b}] }} {{ '%s-%s' | format(a, 1) }} {{ [a, a] | join('+') }}";
    host.has_template(template, OutputFormat::Python)
        .remote_vars = Some(HostPath::new("/etc/app/vars.yaml").unwrap());
    let files = preview(&host.config, &held(&[("app.j2", template)])).unwrap();
    let text = files[0].text.as_deref().unwrap();
    assert_eq!(text, "[⟦a⟧, {'k': ⟦a.b⟧}] ⟦a⟧-1 ⟦a⟧+⟦a⟧");
}

#[test]
fn without_variables_of_hosts_it_is_what_hosts_render() {
    let mut host = Host::new();
    host.config.vars = r#"{"list": ["a", null, true]}"#.into();
    let template = "{{ list }} {{ nothing }}.\n\n";
    host.has_template(template, OutputFormat::Yaml);
    let files = preview(&host.config, &held(&[("app.j2", template)])).unwrap();
    assert_eq!(files[0].text.as_deref().unwrap(), host.renders().unwrap());
    assert_eq!(files[0].host_vars, None);
}
