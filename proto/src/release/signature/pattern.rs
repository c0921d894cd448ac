//! Pattern lists as OpenSSH has them: `prod-*,!prod-secret`.

/// Whether `text` matches a comma-separated list of patterns. A pattern that starts with `!`
/// excludes what it matches, wherever it stands; a list of such patterns alone matches nothing.
pub(super) fn matches_list(list: &str, text: &str) -> bool {
    let mut included = false;
    for pattern in list.split(',') {
        match pattern.strip_prefix('!') {
            Some(excluded) if matches(excluded.as_bytes(), text.as_bytes()) => return false,
            Some(_) => {}
            None => included |= matches(pattern.as_bytes(), text.as_bytes()),
        }
    }
    included
}

/// Whether all of `text` matches: `*` stands for any bytes, `?` for one. In time length × length at
/// worst.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and up to where in the text it has been stretched.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((star_p, star_t)) => {
                    *star_t += 1;
                    p = *star_p + 1;
                    t = *star_t;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_as_in_openssh() {
        for (list, text, expected) in [
            ("a", "a", true),
            ("a", "A", false),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything:at/all", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*b*b", "abab", true),
            ("*ab", "aab", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("", "", true),
            ("", "a", false),
            ("scap-release:prod:*", "scap-release:prod:web/app", true),
            ("scap-release:prod:*", "scap-release:staging:web", false),
        ] {
            assert_eq!(matches_list(list, text), expected, "{list} {text}");
        }
    }

    #[test]
    fn an_exclusion_wins_wherever_it_stands_and_includes_nothing() {
        for (list, text, expected) in [
            ("a*,!ab", "ac", true),
            ("a*,!ab", "ab", false),
            ("!ab,a*", "ab", false),
            ("!ab", "ac", false),
            ("x,y,z*", "zoo", true),
        ] {
            assert_eq!(matches_list(list, text), expected, "{list} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_answered_at_once() {
        let pattern = "*a".repeat(500);
        let text = "a".repeat(499) + &"b".repeat(10_000);
        assert!(!matches_list(&pattern, &text));
    }
}
