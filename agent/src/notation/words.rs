//! A command line to words, as a POSIX shell does it without expanding anything.

/// Splits `text`: at blanks, but for what is in quotes or after a backslash.
///
/// # Errors
/// What is missing.
pub fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters
                        .next()
                        .ok_or("a `'` that ends what one began was expected")?
                    {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                let unended = "a `\"` that ends what one began was expected";
                loop {
                    match letters.next().ok_or(unended)? {
                        '"' => break,
                        '\\' => {
                            let next = letters.next().ok_or(unended)?;
                            if !matches!(next, '"' | '\\') {
                                word.push('\\');
                            }
                            word.push(next);
                        }
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                let next = letters
                    .next()
                    .ok_or("something after the `\\` was expected")?;
                word.get_or_insert_default().push(next);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    // Each is what `shlex.split` of Python 3.11 gives.
    #[test]
    fn words_are_split_as_shlex_splits_them() {
        for (text, words) in [
            ("a  b\tc\n", vec!["a", "b", "c"]),
            ("", vec![]),
            ("'a b' \"c d\"e", vec!["a b", "c de"]),
            (r#"a\ b "\"x\\ \n" '\'"#, vec!["a b", r#""x\ \n"#, r"\"]),
            ("''", vec![""]),
            ("a # b", vec!["a", "#", "b"]),
            ("$HOME/*", vec!["$HOME/*"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for text in ["'a", "\"a", "\"a\\", "a\\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
