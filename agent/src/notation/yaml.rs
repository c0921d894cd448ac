//! YAML as PyYAML reads it: what is not quoted is a number, a yes or no, or nothing by the rules of YAML 1.1.
//!
//! Stricter where more would be a trap: a key twice is an error, as is a tag, more than one document, a number that JSON
//! has not, and a key that is neither text nor a whole number. Dates are text. Nothing is unfolded beyond 20,000 values and 4 MiB of text.

use std::{collections::BTreeMap, ops::Add, sync::Arc};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    Place,
    node::{Key, Map, Node, Value},
};

/// Most values of a document, those that aliases repeat counted each time: files of configuration have hundreds.
const NODES_MAX: usize = 20_000;
/// Most bytes of text of a document, keys too, those that aliases repeat counted each time: a file has at most 1 MiB.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How deep values may be in each other: what reads them on a host stops at 128.
const DEPTH_MAX: usize = 64;
/// The key whose maps are put in where it stands.
const MERGE: &str = "<<";

/// What is no YAML, or more of it than is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct YamlError {
    /// Where.
    pub at: Place,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl YamlError {
    fn new(at: &Place, problem: impl Into<String>) -> Self {
        Self {
            at: at.clone(),
            problem: problem.into(),
        }
    }
}

/// Parses a file; `file` is for messages.
///
/// # Errors
/// [`YamlError`] with the line.
pub fn parse(bytes: &[u8], file: &Arc<str>) -> Result<Node, YamlError> {
    let text =
        super::text(bytes, file).map_err(|at| YamlError::new(&at, "a byte that is not UTF-8"))?;
    let mut builder = Builder {
        file,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        done: None,
        size: Size::default(),
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| builder.malformed(&error))?;
        builder.take(event, span)?;
    }
    let nothing = Node {
        at: builder.at(1),
        value: Value::Null,
    };
    Ok(builder.done.unwrap_or(nothing))
}

struct Builder<'a> {
    file: &'a Arc<str>,
    /// The collections that have begun, each in the one before it.
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    /// The document.
    done: Option<Node>,
    size: Size,
}

/// How much there is of a value and all below it.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text_bytes: usize,
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nodes: self.nodes + other.nodes,
            text_bytes: self.text_bytes + other.text_bytes,
        }
    }
}

struct Open {
    at: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        own: Map,
        /// The key whose value is next.
        key: Option<Key>,
        /// What `<<` put in, weaker than what is the map's own.
        merged: Vec<Map>,
    },
}

impl Builder<'_> {
    fn at(&self, line: usize) -> Place {
        Place {
            file: self.file.clone(),
            line: line.max(1),
        }
    }

    fn malformed(&self, error: &ScanError) -> YamlError {
        let at = self.at(error.marker().line());
        let what: String = error.info().chars().filter(|c| !c.is_control()).collect();
        YamlError::new(&at, format!("not YAML: {what}"))
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let at = self.at(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain || is_text(tag.as_deref(), &at)?;
                let is_merge = !is_text && text == MERGE && self.is_key_next();
                let value = match is_text || is_merge {
                    true => Value::Text(text.into_owned()),
                    false => scalar(&text, &at)?,
                };
                let node = Node { at, value };
                self.count(own_size(&node), &node.at)?;
                self.keep(anchor, &node)?;
                self.add(node, is_merge)
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_text(tag.as_deref(), &at)?;
                self.begin(at, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                is_text(tag.as_deref(), &at)?;
                let content = Content::Map {
                    own: Map::default(),
                    key: None,
                    merged: Vec::new(),
                };
                self.begin(at, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open {
                    at,
                    anchor,
                    content,
                }) = self.open.pop()
                else {
                    unreachable!("the parser ends only what it began");
                };
                let value = match content {
                    Content::List(nodes) => Value::List(nodes),
                    Content::Map { own, merged, .. } => Value::Map(merge(own, merged)),
                };
                let node = Node { at, value };
                self.count(own_size(&node), &node.at)?;
                self.keep(anchor, &node)?;
                self.add(node, false)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.count(size(&node), &at)?;
                    if self.open.len() + depth(&node) > DEPTH_MAX {
                        return Err(too_deep(&at));
                    }
                    self.add(Node { at, ..node }, false)
                }
                None => Err(YamlError::new(&at, "an alias in what it stands for")),
            },
            Event::DocumentStart(..) if self.done.is_some() => {
                Err(YamlError::new(&at, "a second document; one was expected"))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Place, anchor: usize, content: Content) -> Result<(), YamlError> {
        if self.is_key_next() {
            return Err(YamlError::new(
                &at,
                "a key is a list or a map; text was expected",
            ));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(&at));
        }
        self.open.push(Open {
            at,
            anchor,
            content,
        });
        Ok(())
    }

    fn keep(&mut self, anchor: usize, node: &Node) -> Result<(), YamlError> {
        if anchor != 0 {
            // What is kept to be repeated counts as well.
            self.count(size(node), &node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    /// Counts what is about to be held.
    fn count(&mut self, more: Size, at: &Place) -> Result<(), YamlError> {
        self.size = self.size + more;
        let Size { nodes, text_bytes } = self.size;
        let most = match () {
            () if nodes > NODES_MAX => format!("{NODES_MAX} values"),
            () if text_bytes > TEXT_BYTES_MAX => format!("{TEXT_BYTES_MAX} bytes of text"),
            () => return Ok(()),
        };
        let problem = format!("more than {most}, those of aliases counted each time");
        Err(YamlError::new(at, problem))
    }

    fn is_key_next(&self) -> bool {
        let last = self.open.last().map(|open| &open.content);
        matches!(last, Some(Content::Map { key: None, .. }))
    }

    /// Puts a value where it belongs: it is the document, in a list, a key, or a key's value.
    fn add(&mut self, node: Node, is_merge: bool) -> Result<(), YamlError> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.done = Some(node),
            Some(Content::List(nodes)) => nodes.push(node),
            Some(Content::Map { own, key, merged }) => match key.take() {
                None => *key = Some(new_key(node, own, is_merge)?),
                Some(key) if *key.name == *MERGE => merged.extend(maps(node)?),
                Some(key) => own.set(key, node),
            },
        }
        Ok(())
    }
}

fn expected(node: &Node, what: &str, expected: &str) -> YamlError {
    let problem = format!("{what} is {}; {expected} was expected", node.kind());
    YamlError::new(&node.at, problem)
}

/// A text for messages.
fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

fn too_deep(at: &Place) -> YamlError {
    YamlError::new(
        at,
        format!("values more than {DEPTH_MAX} deep in each other"),
    )
}

fn new_key(node: Node, own: &Map, is_merge: bool) -> Result<Key, YamlError> {
    let name = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => {
            return Err(expected(
                &node,
                "a key",
                "text (in quotes, if it looks like something else)",
            ));
        }
    };
    // A `<<` in quotes cannot be told from one that merges, and is in nobody's variables.
    if name == MERGE && !is_merge {
        return Err(YamlError::new(&node.at, "a key `<<` in quotes"));
    }
    let at = node.at;
    if let Some((first, _)) = own.0.iter().find(|(key, _)| *key.name == *name) {
        let problem = format!("`{}` is there twice, first at {}", shown(&name), first.at);
        return Err(YamlError::new(&at, problem));
    }
    let name = name.into();
    Ok(Key { name, at })
}

/// What `<<` puts in: a map, or several.
fn maps(node: Node) -> Result<Vec<Map>, YamlError> {
    match node.value {
        Value::Map(map) => Ok(vec![map]),
        Value::List(nodes) => {
            let maps = nodes.into_iter().map(maps).collect::<Result<Vec<_>, _>>()?;
            Ok(maps.concat())
        }
        _ => Err(expected(
            &node,
            "what `<<` merges",
            "a map, or a list of maps",
        )),
    }
}

/// The first of several merged maps is the strongest, and the map's own keys are stronger than all.
fn merge(own: Map, merged: Vec<Map>) -> Map {
    let mut all = Map::default();
    for map in merged.into_iter().rev().chain([own]) {
        for (key, node) in map.0 {
            all.set(key, node);
        }
    }
    all
}

/// Of a value, and of all below it with their keys.
fn size(node: &Node) -> Size {
    let below = match &node.value {
        Value::List(nodes) => nodes.iter().map(size).fold(Size::default(), Size::add),
        Value::Map(map) => {
            let entry = |(key, node): &(Key, Node)| text_size(&key.name) + size(node);
            map.0.iter().map(entry).fold(Size::default(), Size::add)
        }
        _ => Size::default(),
    };
    own_size(node) + below
}

/// Of a value without those below it.
fn own_size(node: &Node) -> Size {
    text_size(match &node.value {
        Value::Text(text) => text,
        _ => "",
    })
}

fn text_size(text: &str) -> Size {
    let text_bytes = text.len();
    Size {
        nodes: 1,
        text_bytes,
    }
}

fn depth(node: &Node) -> usize {
    let deepest = match &node.value {
        Value::List(nodes) => nodes.iter().map(depth).max(),
        Value::Map(map) => map.0.iter().map(|(_, node)| depth(node)).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

/// Whether a tag says that a value is text. Other tags make objects in Python, and are refused.
fn is_text(tag: Option<&Tag>, at: &Place) -> Result<bool, YamlError> {
    match tag.map(|tag| tag.to_string()).as_deref() {
        None => Ok(false),
        Some("!!str" | "tag:yaml.org,2002:str") => Ok(true),
        Some("!!map" | "!!seq" | "tag:yaml.org,2002:map" | "tag:yaml.org,2002:seq") => Ok(false),
        Some(tag) => Err(YamlError::new(
            at,
            format!("tag `{}`; a value without one was expected", shown(tag)),
        )),
    }
}

/// What an unquoted text is by the rules of YAML 1.1.
fn scalar(text: &str, at: &Place) -> Result<Value, YamlError> {
    let word = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(Value::Bool(true))
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(Value::Bool(false))
        }
        _ => None,
    };
    if let Some(value) = word {
        return Ok(value);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_negative = text.starts_with('-');
    if is_infinite_or_none(text, unsigned) {
        return Err(YamlError::new(
            at,
            "a number that is infinite or none; a finite one was expected",
        ));
    }
    if let Some(digits) = int(unsigned) {
        let (digits, base) = digits;
        let number = digits.split(':').try_fold(0_i128, |sum, part| {
            let part = i128::from_str_radix(&part.replace('_', ""), base).ok()?;
            sum.checked_mul(60)?.checked_add(part)
        });
        let number = number.map(|number| if is_negative { -number } else { number });
        let number = number.and_then(|number| i64::try_from(number).ok());
        return number.map(Value::Int).ok_or_else(|| {
            YamlError::new(
                at,
                format!("`{}` is too large a number; put it in quotes", shown(text)),
            )
        });
    }
    // A sign before a bare dot makes it text.
    if is_float(unsigned) && !(unsigned.starts_with('.') && unsigned != text) {
        let parts = unsigned
            .split(':')
            .map(|part| part.replace('_', "").parse::<f64>().ok());
        let number = parts
            .into_iter()
            .try_fold(0.0, |sum, part| Some(sum * 60.0 + part?));
        if let Some(number) = number.filter(|number: &f64| number.is_finite()) {
            return Ok(Value::Float(if is_negative { -number } else { number }));
        }
    }
    Ok(Value::Text(text.into()))
}

fn is_infinite_or_none(text: &str, unsigned: &str) -> bool {
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// The digits of a whole number without its sign, and their base: `12`, `0b1`, `0x1f`, `017`, and `1:30` to the base of 60.
fn int(text: &str) -> Option<(&str, u32)> {
    let all = |digits: &str, is_digit: fn(char) -> bool| {
        digits.contains(is_digit) && digits.chars().all(|c| c == '_' || is_digit(c))
    };
    if let Some(digits) = text.strip_prefix("0b") {
        return all(digits, |c| matches!(c, '0' | '1')).then_some((digits, 2));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |c| c.is_ascii_hexdigit()).then_some((digits, 16));
    }
    if text == "0" {
        return Some((text, 10));
    }
    if let Some(digits) = text.strip_prefix('0') {
        return all(digits, |c| matches!(c, '0'..='7')).then_some((digits, 8));
    }
    let mut parts = text.split(':');
    let first = parts.next()?;
    let is_first =
        first.starts_with(|c: char| c.is_ascii_digit()) && all(first, |c| c.is_ascii_digit());
    (is_first && parts.all(is_sixtieth)).then_some((text, 10))
}

/// `0` to `59`.
fn is_sixtieth(part: &str) -> bool {
    matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
}

/// Whether a number without its sign has a fraction: digits, a dot, and digits, then `e`, a sign and digits.
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.chars().all(|c| c == '_' || c.is_ascii_digit());
    let Some((whole, rest)) = text.split_once('.') else {
        return false;
    };
    if let Some((first, sixtieths)) = whole.split_once(':') {
        return first.starts_with(|c: char| c.is_ascii_digit())
            && digits(first)
            && sixtieths.split(':').all(is_sixtieth)
            && digits(rest);
    }
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    let is_exponent = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    let is_number = match whole.is_empty() {
        true => fraction.starts_with(|c: char| c.is_ascii_digit()),
        false => whole.starts_with(|c: char| c.is_ascii_digit()),
    };
    is_number && digits(whole) && digits(fraction) && is_exponent
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Result<String, String> {
        let node = parse(text.as_bytes(), &"f".into()).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&node).unwrap())
    }

    // What PyYAML 6.0.3 makes of each, printed as JSON.
    #[test]
    fn it_is_read_as_pyyaml_reads_it() {
        for (text, expected) in [
            ("", "null"),
            ("# only\n", "null"),
            (
                "a: 1\nb: [x, 'y', \"z\\n\"]\n",
                r#"{"a":1,"b":["x","y","z\n"]}"#,
            ),
            ("z: 1\na: 2\n", r#"{"z":1,"a":2}"#),
            (
                "[yes, No, on, OFF, true, y, n, 'yes']",
                r#"[true,false,true,false,true,"y","n","yes"]"#,
            ),
            ("[~, null, Null, nil]", r#"[null,null,null,"nil"]"#),
            (
                "[0, 017, 08, 0o17, 0x1F, 0b101, 1_000, -5, +5, 1:30, 1:60, 0_7]",
                r#"[0,15,"08","0o17",31,5,1000,-5,5,90,"1:60",7]"#,
            ),
            (
                "[1.10, 1., .5, 1e3, 1.0e+3, 1.5e3, -.5, 1:30.5, 1_0.5, ., 1.2.3]",
                r#"[1.1,1.0,0.5,"1e3",1000.0,"1.5e3","-.5",90.5,10.5,".","1.2.3"]"#,
            ),
            (
                "[!!str 5, 0:30, 00, 1_, -0x1f, 5:1:1, 0., -1.5]",
                r#"["5","0:30",0,1,-31,18061,0.0,-1.5]"#,
            ),
            ("8080: a\n017: b\n", r#"{"8080":"a","15":"b"}"#),
            ("a: &x {k: 1}\nb: *x\n", r#"{"a":{"k":1},"b":{"k":1}}"#),
            (
                "x: &x {k: 1, l: 2}\ny:\n  l: 3\n  <<: *x\n",
                r#"{"x":{"k":1,"l":2},"y":{"k":1,"l":3}}"#,
            ),
            (
                "a: &a {k: 1}\nb: &b {k: 2, m: 2}\nc: {<<: [*a, *b]}\n",
                r#"{"a":{"k":1},"b":{"k":2,"m":2},"c":{"k":1,"m":2}}"#,
            ),
            (
                "a: |\n  x\n  y\nb: >-\n  x\n  y\n",
                r#"{"a":"x\ny\n","b":"x y"}"#,
            ),
            ("a:\nb: {}\n", r#"{"a":null,"b":{}}"#),
            ("---\na: 1\n...\n", r#"{"a":1}"#),
        ] {
            assert_eq!(json(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            ("a: 1\nb: [\n", "f:2: not YAML: unclosed bracket '['"),
            ("a: 1\n\tb: 1\n", "f:1: not YAML: "),
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3: `a` is there twice, first at f:1",
            ),
            ("a: 1\n---\nb: 2\n", "f:2: a second document"),
            ("a: !!python/object/apply:os.system [x]\n", "f:1: tag `"),
            ("a: .inf\n", "f:1: a number that is infinite"),
            ("\nyes: 1\n", "f:2: a key is a yes or no; text (in quotes"),
            ("? [a]\n: 1\n", "f:1: a key is a list or a map"),
            (
                "a: 99999999999999999999\n",
                "f:1: `99999999999999999999` is too large",
            ),
            ("a: &a [*a]\n", "f:1: an alias in what it stands for"),
            ("a: *b\n", "f:1: not YAML: "),
            ("a: {<<: 5}\n", "f:1: what `<<` merges is a number"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
        let error = parse(b"a: 1\nb: \xff\n", &"f".into()).unwrap_err();
        assert_eq!(error.to_string(), "f:2: a byte that is not UTF-8");
    }

    #[test]
    fn a_document_that_grows_without_bound_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(json(&bomb).unwrap_err().contains("more than 20000 values"));
        // Few values, and each of them long.
        let long = "x".repeat(100_000);
        let aliases = "*a, ".repeat(50);
        for bomb in [
            format!("a: &a {long}\nb: [{aliases}]\n"),
            format!("a: &a\n  ? {long}\n  : 1\nb: [{aliases}]\n"),
        ] {
            let error = json(&bomb).unwrap_err();
            assert!(
                error.contains(": more than 4194304 bytes of text"),
                "{error}"
            );
        }
        assert!(json(&format!("a: &a {long}\nb: [*a, *a]\n")).is_ok());
        for deep in [
            "[".repeat(1000),
            "- ".repeat(1000),
            "a: &a [1]\n".to_owned() + &"- ".repeat(70),
        ] {
            assert!(json(&deep).is_err());
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(json(&nested(64)).is_ok());
        assert!(json(&nested(65)).unwrap_err().contains("more than 64 deep"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "([-a-c0-9 :.,?&*!<\\[\\]{}'\"|>\n_+~]|\\PC){0,60}") {
            let _ = json(&text);
        }
    }
}
