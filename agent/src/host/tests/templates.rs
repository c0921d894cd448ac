use std::{fs, time::Instant};

use scap_proto::{
    content::RelPath,
    release::host_config::{ConfigFile, Destination, OutputFormat},
};

use super::Host;
use crate::host::{RENDERED_BYTES_MAX, RenderError, Rendered};

impl Host {
    /// One config file, from this template.
    pub(super) fn has_template(&mut self, text: &str, format: OutputFormat) -> &mut ConfigFile {
        self.write("templates/app.j2", text);
        self.config.config_files.clear();
        self.adds_file("app.j2", format)
    }

    fn adds_file(&mut self, template: &str, format: OutputFormat) -> &mut ConfigFile {
        let destination = self.host_path("app.conf");
        self.config.config_files.push(ConfigFile {
            destination: Destination::OnHost(destination),
            template: RelPath::new(template.to_owned()).unwrap(),
            remote_vars: None,
            format,
            has_erb_syntax: false,
        });
        self.config.config_files.last_mut().unwrap()
    }

    /// The text of the one file.
    pub(super) fn renders(&self) -> Result<String, String> {
        match self.work().render() {
            Ok(files) => {
                let [Rendered { bytes, .. }] = files.as_slice() else {
                    panic!("one file: {files:?}");
                };
                Ok(String::from_utf8(bytes.clone()).unwrap())
            }
            Err(error) => {
                let text = crate::error_chain(&error);
                Err(text.replace(&format!("{}/", self.directory.path().display()), ""))
            }
        }
    }

    #[track_caller]
    fn fails_with(&self, says: &str) {
        let error = self.renders().unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn all_files_are_rendered_in_their_order_and_none_is_written() {
    let mut host = Host::new();
    host.config.vars = r#"{"port": 80}"#.into();
    host.write("templates/a.j2", "a {{ port }}\n");
    fs::create_dir(host.path("templates/sub")).unwrap();
    host.write("templates/sub/b.j2", "b {{ port }}\n\n");
    host.adds_file("sub/b.j2", OutputFormat::Python);
    let relative = Destination::InRelease(RelPath::new("etc/a").unwrap());
    host.adds_file("a.j2", OutputFormat::Python).destination = relative.clone();
    let rendered = host.work().render().unwrap();
    let absolute = Destination::OnHost(host.host_path("app.conf"));
    let file = |destination, text: &str| Rendered {
        destination,
        bytes: text.into(),
    };
    // One newline at the end is the template's, as with Jinja2.
    assert_eq!(rendered, [file(absolute, "b 80\n"), file(relative, "a 80")]);
    assert!(!host.path("app.conf").exists());
}

#[test]
fn yaml_has_its_own_words_for_nothing_yes_and_no() {
    let mut host = Host::new();
    let vars = r#"{"no": false, "nothing": null, "list": ["a", true, null, 1.5, "it's", "it's \"x\"", "a\nb\\"],
        "map": {"z": [], "a": {"k": true}}, "text": "true"}"#;
    host.config.vars = vars.into();
    for (template, expected) in [
        (
            "{{ no }} {{ nothing }} {{ not no }} {{ text }}",
            "false null true true",
        ),
        ("{{ missing }}", ""),
        (
            "{{ list }}",
            r#"['a', true, null, 1.5, "it's", "it's \"x\"", "a\nb\\"]"#,
        ),
        ("{{ map }}", "{'z': [], 'a': {'k': true}}"),
        ("{{ (1, none) }} {{ range(2) }}", "[1, null] [0, 1]"),
    ] {
        host.has_template(template, OutputFormat::Yaml);
        assert_eq!(host.renders().as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn a_template_may_have_the_delimiters_of_erb() {
    let mut host = Host::new();
    host.config.vars = r#"{"port": 80, "hosts": ["a", "b"]}"#.into();
    let text = "<%# a comment %>{{ port }} <%= port %>\n<% for host in hosts -%>\n<%= host | upper %>;\n<%- endfor %>\n";
    host.has_template(text, OutputFormat::Python).has_erb_syntax = true;
    assert_eq!(host.renders().as_deref(), Ok("{{ port }} 80\nA;B;"));
}

#[test]
fn templates_include_and_extend_others_and_what_they_import() {
    let mut host = Host::new();
    host.config.vars = r#"{"port": 80}"#.into();
    host.write("templates/base", "[{% block body %}{% endblock %}]");
    host.write("templates/part", "part {{ port }}");
    host.write(
        "templates/macros",
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}",
    );
    let text = "{% extends 'base' %}{% import 'macros' as m %}{% block body %}{% include 'part' %}, {{ m.twice(port) }}{% endblock %}";
    host.has_template(text, OutputFormat::Python);
    assert_eq!(host.renders().as_deref(), Ok("[part 80, 8080]"));
    host.has_template(
        "{% include 'gone' ignore missing %}{% include ['gone', 'part'] %}",
        OutputFormat::Python,
    );
    assert_eq!(host.renders().as_deref(), Ok("part 80"));
}

#[test]
fn no_template_leads_out_of_the_templates() {
    let mut host = Host::new();
    host.write("secret", "secret");
    let secret = host.path("secret");
    for name in [
        "../secret",
        "/etc/hostname",
        secret.to_str().unwrap(),
        "",
        "a//b",
        "gone",
    ] {
        host.has_template(&format!("{{% include '{name}' %}}"), OutputFormat::Python);
        host.fails_with("templates/app.j2:1: template not found");
    }
}

#[test]
fn an_error_names_the_template_the_line_and_what_is_wrong() {
    let mut host = Host::new();
    host.write("templates/part", "\n\n{{ a.b.c }}");
    let mut wrong = Vec::new();
    for (template, says) in [
        (
            "a\n{% if %}",
            "render app.conf: templates/app.j2:2: syntax error: unexpected end of block",
        ),
        (
            "a\n{{ x",
            "templates/app.j2:2: syntax error: unexpected end of input",
        ),
        (
            "{% for x in y %}\n",
            "templates/app.j2:1: syntax error: unexpected end of input, expected end of block",
        ),
        ("\n{{ x.y.z }}", "templates/app.j2:2: undefined value"),
        (
            "{{ x | nope }}",
            "templates/app.j2:1: unknown filter: filter nope is unknown",
        ),
        (
            "{{ nope() }}",
            "templates/app.j2:1: unknown function: nope is unknown",
        ),
        (
            "\n\n{{ 1 + 'a' }}",
            "templates/app.j2:3: invalid operation: ",
        ),
        ("{{ 1 // 0 }}", "templates/app.j2:1: "),
        (
            "\n{% include 'part' %}",
            "templates/part:3: undefined value",
        ),
        ("{% extends 'app.j2' %}", "templates/app.j2:1: "),
        ("{% include 'app.j2' %}", "templates/app.j2:1: "),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "templates/app.j2:1: ",
        ),
    ] {
        host.has_template(template, OutputFormat::Python);
        let error = host.renders().unwrap_err();
        if !error.contains(says) {
            wrong.push(format!("{template:?}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.write("templates/app.j2", b"a\n\xff\n");
    host.fails_with("templates/app.j2:2: a byte that is not UTF-8");
    host.write("templates/app.j2", " ".repeat(1024 * 1024 + 1));
    host.fails_with("templates/app.j2 has more than 1048576 bytes");
    fs::remove_file(host.path("templates/app.j2")).unwrap();
    host.fails_with("templates/app.j2:1: template not found");
}

#[test]
fn the_variables_of_the_host_win() {
    let mut host = Host::new();
    host.config.vars = r#"{"port": 80, "name": "release", "db": {"user": "u", "port": 1}}"#.into();
    host.write(
        "vars.yaml",
        "name: host\nmode: 0644\non_call: yes\ndb: {port: 2}\n",
    );
    let file = host.host_path("vars.yaml");
    let text = "{{ port }} {{ name }} {{ mode }} {{ on_call }} {{ db }}";
    host.has_template(text, OutputFormat::Python).remote_vars = Some(file);
    // As PyYAML reads it, and whole variables.
    assert_eq!(
        host.renders().as_deref(),
        Ok("80 host 420 True {'port': 2}")
    );
    host.write("vars.yaml", "# puppet has nothing to say\n");
    let expected = "80 release   {'user': 'u', 'port': 1}";
    assert_eq!(host.renders().as_deref(), Ok(expected));
}

#[test]
fn variables_that_cannot_be_read_are_an_error_that_names_the_file() {
    let mut host = Host::new();
    let file = host.host_path("vars.yaml");
    host.has_template("", OutputFormat::Python).remote_vars = Some(file);
    host.fails_with("render app.conf: read the variables of this host, vars.yaml: No such file");
    host.write("vars.yaml", "a: 1\nb: [\n");
    host.fails_with("read the variables of this host: vars.yaml:2: not YAML: ");
    host.write("vars.yaml", "\n- a\n");
    host.fails_with("vars.yaml:2: a list; a map of variables was expected");
    host.write("vars.yaml", "#".repeat(1024 * 1024 + 1));
    host.fails_with("vars.yaml has more than 1048576 bytes");
    fs::remove_file(host.path("vars.yaml")).unwrap();
    // Nobody writes to it: opening it would wait for ever.
    let pipe = std::process::Command::new("mkfifo")
        .arg(host.path("vars.yaml"))
        .status();
    assert!(pipe.unwrap().success());
    host.fails_with("vars.yaml: not a file");
    host.config.vars = "[]".into();
    host.fails_with("read the variables of the release: ");
}

#[test]
fn a_template_that_does_not_end_is_an_error() {
    let mut host = Host::new();
    host.config.vars = r#"{"name": "x"}"#.into();
    let nine = "{% for a in range(9999) %}".repeat(3) + "x" + &"{% endfor %}".repeat(3);
    let doubled = "{% set ns = namespace(x=name) %}{% for a in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    for (template, line) in [
        (nine.as_str(), 1),
        ("\n{{ name * 10000000000 }}", 2),
        (doubled, 1),
        (
            "\n\n{{ range(99999) | map('upper') | join | length }}{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
            3,
        ),
    ] {
        host.has_template(template, OutputFormat::Yaml);
        let began = Instant::now();
        host.fails_with(&format!("templates/app.j2:{line}: more than 500000 steps"));
        assert!(began.elapsed().as_secs() < 60, "{template}");
    }
}

#[test]
fn all_files_together_have_a_bound() {
    let mut host = Host::new();
    host.config.vars = r#"{"name": "x"}"#.into();
    let bytes = RENDERED_BYTES_MAX / 2;
    host.has_template(&format!("{{{{ name * {bytes} }}}}"), OutputFormat::Python);
    host.adds_file("app.j2", OutputFormat::Python);
    assert_eq!(host.work().render().unwrap().len(), 2);
    host.write("templates/one", "x");
    host.adds_file("one", OutputFormat::Python);
    let error = host.work().render().unwrap_err();
    assert!(matches!(error, RenderError::TooLong { .. }), "{error}");
}

#[test]
fn what_a_template_puts_in_each_other_without_end_takes_no_stack_that_is_not_there() {
    let mut host = Host::new();
    let nest = |count: usize, then: &str| {
        let set = "{% set ns = namespace(x=1) %}{% for a in range(COUNT) %}{% set ns.x = [ns.x] %}{% endfor %}";
        set.replace("COUNT", &count.to_string()) + then
    };
    host.has_template(&nest(30_000, "done"), OutputFormat::Python);
    assert_eq!(host.renders().as_deref(), Ok("done"));
    host.has_template(&nest(99_999, ""), OutputFormat::Python);
    host.fails_with("more than 500000 steps");
    host.has_template(&nest(30_000, "{{ ns.x }}"), OutputFormat::Yaml);
    host.fails_with("templates/app.j2:1: ");
    for print in ["{{ ns.x }}", "{{ ns.x ~ '' }}", "{{ ns.x == [ns.x] }}"] {
        host.has_template(&nest(30_000, print), OutputFormat::Python);
        let printed = host.renders();
        assert!(printed.is_ok() || printed.is_err_and(|error| error.contains("app.j2:1: ")));
    }
    host.has_template(&nest(30_000, "{{ ns.x | tojson }}"), OutputFormat::Python);
    host.fails_with("more than 128 deep in each other");
}
