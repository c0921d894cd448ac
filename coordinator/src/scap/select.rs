//! Which of the hosts a deployment is for: `--limit-hosts`.

use regex_automata::meta::Regex;
use scap_proto::id::NodeId;

/// A choice of hosts by their names.
///
/// `all` and `*` are all; `~` and a regular expression those whose names begin as it says; else a name in which `*` is anything,
/// `?` one character, and `[01:10]` or `[a:c]` each number or letter of a range. A `!` before it takes all others.
#[derive(Debug, Clone)]
pub struct Selection {
    names: Regex,
    is_negated: bool,
}

/// Most names of one range: more than there are hosts in a fleet is a slip.
const RANGE_MAX: u32 = 20_000;

impl Selection {
    /// Whether a host is chosen.
    pub fn has(&self, host: &NodeId) -> bool {
        self.names.is_match(host.as_str()) != self.is_negated
    }
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_negated, names) = match text.strip_prefix('!') {
            Some(names) => (true, names),
            None => (false, text),
        };
        let names = match names {
            "" => return Err("a host, a pattern like `web[01:10]*`, `~` and a regular expression, or `all` was expected".into()),
            "all" => ".*".into(),
            names => match names.strip_prefix('~') {
                Some(regex) => regex.to_owned(),
                None => format!("(?:{})$", regex_of(names)?),
            },
        };
        let names =
            Regex::new(&format!("^(?:{names})")).map_err(|error| match error.syntax_error() {
                Some(error) => format!("a regular expression was expected: {error}"),
                None => error.to_string(),
            })?;
        Ok(Self { names, is_negated })
    }
}

fn regex_of(pattern: &str) -> Result<String, String> {
    let mut regex = String::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                let range = rest.split_once(']');
                let (inside, after) = range.ok_or("`]` was expected after `[`")?;
                let alternatives = range_of(inside).ok_or_else(|| {
                    format!(
                        "`[{}]` is not a range like `[01:10]` or `[a:c]`",
                        inside.escape_debug()
                    )
                })?;
                regex.push_str(&format!("(?:{})", alternatives.join("|")));
                rest = after;
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => regex.push(c),
            '.' => regex.push_str("\\."),
            other => return Err(format!("`{}` is in no host's name", other.escape_debug())),
        }
    }
    Ok(regex)
}

/// What `01:10` or `a:c` stands for. Numbers are as wide as the first one.
fn range_of(inside: &str) -> Option<Vec<String>> {
    let (first, last) = inside.split_once(':')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(first) && is_number(last) {
        let (from, to) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        let is_sound = from <= to && to - from < RANGE_MAX && first.len() <= last.len();
        let width = first.len();
        return is_sound.then(|| (from..=to).map(|n| format!("{n:0width$}")).collect());
    }
    let letter = |text: &str| text.parse::<char>().ok().filter(char::is_ascii_alphabetic);
    let (from, to) = (letter(first)?, letter(last)?);
    let is_sound = from <= to && from.is_ascii_lowercase() == to.is_ascii_lowercase();
    is_sound.then(|| (from..=to).map(String::from).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOSTS: [&str; 7] = [
        "db1",
        "web01",
        "web02.example.org",
        "web09",
        "web10",
        "web100",
        "weba",
    ];

    fn chosen(pattern: &str) -> Vec<&'static str> {
        let selection: Selection = pattern.parse().unwrap();
        HOSTS
            .into_iter()
            .filter(|host| selection.has(&host.parse().unwrap()))
            .collect()
    }

    #[test]
    fn hosts_are_chosen_by_name_glob_range_and_regular_expression() {
        for (pattern, expected) in [
            ("all", HOSTS.to_vec()),
            ("*", HOSTS.to_vec()),
            ("db1", vec!["db1"]),
            ("web", vec![]),
            ("web*", HOSTS[1..].to_vec()),
            ("web??", vec!["web01", "web09", "web10"]),
            ("*.example.org", vec!["web02.example.org"]),
            ("web[01:09]", vec!["web01", "web09"]),
            ("web[01:10]*", HOSTS[1..6].to_vec()),
            ("web[9:100]", vec!["web10", "web100"]),
            ("web[a:c]", vec!["weba"]),
            ("!web*", vec!["db1"]),
            ("!all", vec![]),
            ("~web[0-9]+$", vec!["web01", "web09", "web10", "web100"]),
            // From the beginning, and not to the end.
            ("~eb", vec![]),
            ("~web1|db", vec!["db1", "web10", "web100"]),
            ("!~web", vec!["db1"]),
        ] {
            assert_eq!(chosen(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for (pattern, says) in [
            ("", "was expected"),
            ("!", "was expected"),
            ("web[01", "`]` was expected"),
            ("web[10:01]", "`[10:01]` is not a range"),
            ("web[0:99999999]", "not a range"),
            ("web[a:1]", "not a range"),
            ("web[]", "not a range"),
            ("web1,web2", "`,` is in no host's name"),
            ("~web(", "a regular expression was expected"),
        ] {
            let error = pattern.parse::<Selection>().unwrap_err();
            assert!(error.contains(says), "{pattern}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_pattern_panics(pattern in "[!~]?([a-c0-9*?.:\\[\\]-]|\\PC){0,12}") {
            let _ = pattern.parse::<Selection>();
        }
    }
}
