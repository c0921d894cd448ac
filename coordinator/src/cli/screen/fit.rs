//! Lines that fit: what does not is left out, the least important first, and nothing ever wraps.

/// Between two parts of a line.
const GAP: usize = 2;
/// Columns of the word that a line begins with, and the space behind it.
const LABEL: usize = 7;

/// A part of a line.
pub(super) struct Part {
    /// The lower, the sooner it is given room; those of rank 0 are there in any case, cut where they must be.
    rank: u8,
    /// How it may be said, the longest first: the first that fits is taken.
    choices: Vec<String>,
}

impl Part {
    pub(super) fn new(rank: u8, text: impl Into<String>) -> Self {
        Self::of(rank, [text.into()])
    }

    pub(super) fn of(rank: u8, choices: impl IntoIterator<Item = String>) -> Self {
        Self {
            rank,
            choices: choices.into_iter().collect(),
        }
    }

    /// Hosts by name: as many as fit of the first `most`, and how many more there are; where not even one fits, `before` alone.
    pub(super) fn names(rank: u8, before: &str, names: &[&str], most: usize) -> Self {
        let shown = (1..=most.min(names.len())).rev();
        let one = |count: usize| {
            let more = names.len() - count;
            let names = names[..count].join(" ");
            match more {
                0 => format!("{before}: {names}"),
                more => format!("{before}: {names} and {more} more"),
            }
        };
        Self::of(rank, shown.map(one).chain([before.to_owned()]))
    }
}

/// A line of at most `columns`: `label`, and what fits of the parts, in their order. All of it must be inert on a terminal.
pub(super) fn fit(label: &str, parts: &[Part], columns: usize) -> String {
    let mut chosen: Vec<Option<String>> = parts.iter().map(|_| None).collect();
    let mut used = LABEL;
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| parts[*at].rank);
    for at in order {
        let Part { rank, choices } = &parts[at];
        // A part that is first has no gap before it, so this is never too little.
        let fits = |text: &&String| used + width(text) <= columns;
        let least = choices.last().filter(|_| *rank == 0);
        if let Some(text) = choices.iter().find(fits).or(least) {
            used += width(text) + GAP;
            chosen[at] = Some(text.clone());
        }
    }
    let chosen: Vec<String> = chosen
        .into_iter()
        .flatten()
        .filter(|it| !it.is_empty())
        .collect();
    let text = format!("{label:<LABEL$}{}", chosen.join(&" ".repeat(GAP)));
    cut(text.trim_end(), columns)
}

/// The beginning of a text that has no more than `columns`; where something is missing it ends so.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for char in text.chars() {
        if used + columns_of(char) + 1 > columns {
            break;
        }
        used += columns_of(char);
        kept.push(char);
    }
    // In any terminal there is a way to write this one.
    if columns > 0 {
        kept.push('~');
    }
    kept
}

/// How many columns a text takes at most.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// How many columns a character takes at most. From U+1100 on some take two; which ones terminals do not agree on, so that all
/// do here but those that are ours.
fn columns_of(char: char) -> usize {
    match char {
        '\u{2192}' | '\u{2588}' | '\u{258c}' => 1,
        _ if char < '\u{1100}' => 1,
        _ => 2,
    }
}

/// Text from elsewhere, so that it does nothing to a terminal.
pub(super) fn inert(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_least_is_left_out_first_and_the_order_stays() {
        let parts = [
            Part::new(0, "aaaa"),
            Part::new(2, "bbbb"),
            Part::new(1, "cccc"),
            Part::new(0, "dddd"),
        ];
        assert_eq!(fit("data", &parts, 29), "data   aaaa  bbbb  cccc  dddd");
        assert_eq!(fit("data", &parts, 28), "data   aaaa  cccc  dddd");
        assert_eq!(fit("data", &parts, 22), "data   aaaa  dddd");
        assert_eq!(fit("data", &parts, 14), "data   aaaa  ~");
        assert_eq!(fit("data", &parts, 1), "~");
        assert_eq!(fit("data", &parts, 0), "");
    }

    #[test]
    fn as_many_names_are_shown_as_fit() {
        let names = ["web1", "web2", "web3", "web4"];
        let line = |columns| fit("wait", &[Part::names(0, "on", &names, 3)], columns);
        assert_eq!(line(40), "wait   on: web1 web2 web3 and 1 more");
        assert_eq!(line(35), "wait   on: web1 web2 and 2 more");
        assert_eq!(line(26), "wait   on: web1 and 3 more");
        assert_eq!(line(25), "wait   on");
    }

    #[test]
    fn wide_characters_are_counted_as_wide() {
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本~");
        assert_eq!(
            width(&inert("a\u{1b}[2J\u{202e}")),
            "a\\u{1b}[2J\\u{202e}".len()
        );
    }
}
