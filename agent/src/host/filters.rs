//! Filters that the engine lacks, or has otherwise than Jinja2.

use minijinja::{
    Environment, Error, ErrorKind, Value, filters,
    value::{Kwargs, ValueKind},
};

/// How deep a list may be in another to be made JSON: variables are at most half as deep.
const DEPTH_MAX: usize = 128;

pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", to_json);
    environment.add_filter("to_json", to_json);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", url_encode);
}

/// `tojson` of Jinja2 sorts keys.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    filters::tojson(&sorted(value, 0)?, indent, options)
}

fn sorted(value: &Value, depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_MAX {
        let problem = format!("lists and maps more than {DEPTH_MAX} deep in each other");
        return Err(Error::new(ErrorKind::BadSerialization, problem));
    }
    match value.kind() {
        ValueKind::Map => {
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                let item = sorted(&value.get_item(&key)?, depth + 1)?;
                pairs.push((key, item));
            }
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Value::from_pairs(pairs))
        }
        ValueKind::Seq => value
            .try_iter()?
            .map(|item| sorted(&item, depth + 1))
            .collect(),
        _ => Ok(value.clone()),
    }
}

/// All bytes but those that mean nothing in a URL, and `/`, as `%` and two digits.
fn url_encode(value: &Value) -> Result<String, Error> {
    if matches!(
        value.kind(),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable
    ) {
        let problem = format!("urlencode of a {}; text was expected", value.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let text = value.to_string();
    let letter = |byte: u8| match byte {
        b'/' | b'_' | b'.' | b'-' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    Ok(text.bytes().map(letter).collect())
}

/// The first words of a text, with `end` in place of the others: `length` characters at most, but for a text that is `leeway`
/// longer, which stays whole. With `killwords` the last word is cut as well.
#[expect(
    clippy::needless_pass_by_value,
    reason = "so the engine calls a filter"
)]
fn truncate(
    text: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    named: Kwargs,
) -> Result<String, Error> {
    let length = length.or(named.get("length")?).unwrap_or(255);
    let killwords = killwords.or(named.get("killwords")?).unwrap_or(false);
    let end = end.or(named.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept = length.saturating_sub(end.chars().count());
    let kept: String = text.chars().take(kept).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !killwords => words,
        _ => &kept,
    };
    Ok(format!("{kept}{end}"))
}
