//! Flags, and the words in which they were said: what goes into the record of a rollout, and comes out of it when that is gone on with.

use std::{collections::BTreeMap, ops::Deref};

use clap::{
    ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind, parser::ValueSource,
};

use crate::state::Flags;

/// Flags, with the words of those that were said on the command line.
#[derive(Debug, Clone, Default)]
pub(super) struct Worded<T> {
    flags: T,
    words: Flags,
}

impl<T> Worded<T> {
    /// What was said, by the long name of each flag.
    pub(super) fn words(&self) -> &Flags {
        &self.words
    }
}

/// By nobody's word: nothing of it is recorded.
impl<T> From<T> for Worded<T> {
    fn from(flags: T) -> Self {
        let words = Flags::new();
        Self { flags, words }
    }
}

impl<T> Deref for Worded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.flags
    }
}

impl<T: Args> Worded<T> {
    /// The same over `before`: what was not said here is as it was said then; to a flag that may be said several times is added what
    /// is said here. Of flags that are none of these nothing is taken.
    ///
    /// # Errors
    /// Where words of before say nothing that such a flag may say.
    pub(super) fn over(&self, before: &Flags) -> Result<Self, clap::Error> {
        let mut words = before.clone();
        words.retain(|name, _| Self::names().any(|it| it == *name));
        for (name, values) in &self.words {
            let said = words.entry(name.clone()).or_default();
            if !Self::adds_up(name) {
                said.clear();
            }
            said.extend(values.iter().cloned());
        }
        let command = Command::new("resume").no_binary_name(true);
        let matches = Self::augment_args(command).try_get_matches_from(as_said(&words))?;
        Self::from_arg_matches(&matches)
    }

    /// Whether one of these flags may be said several times, and each counts.
    pub(super) fn adds_up(name: &str) -> bool {
        let command = T::augment_args(Command::new("flags"));
        let mut all = command.get_arguments();
        let flag = all.find(|it| it.get_long() == Some(name));
        flag.is_some_and(|it| matches!(it.get_action(), ArgAction::Append))
    }

    /// The long names of all these flags.
    pub(super) fn names() -> impl Iterator<Item = String> {
        let command = T::augment_args(Command::new("flags"));
        let names = command.get_arguments().filter_map(|it| it.get_long());
        names.map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    fn words_of(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        let mut words = BTreeMap::new();
        for argument in T::augment_args(Command::new("flags")).get_arguments() {
            let id = argument.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values = matches.get_raw(id).into_iter().flatten();
            let values: Option<Vec<String>> = values
                .map(|value| value.to_str().map(str::to_owned))
                .collect();
            let values = values.ok_or_else(|| clap::Error::new(ErrorKind::InvalidUtf8))?;
            let name = argument.get_long().expect("each has a long name");
            words.insert(name.to_owned(), values);
        }
        Ok(words)
    }
}

/// Each flag as a command line has it. Not escaped.
pub(super) fn as_said(words: &Flags) -> impl Iterator<Item = String> {
    let one = |(name, values): (&String, &Vec<String>)| {
        let said = |value| format!("--{name}={value}");
        values.iter().map(said).collect::<Vec<_>>()
    };
    words.iter().flat_map(one)
}

impl<T: Args> FromArgMatches for Worded<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        // The flags are taken out as they are read.
        let words = Self::words_of(matches)?;
        let flags = T::from_arg_matches_mut(matches)?;
        Ok(Self { flags, words })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.words.extend(Self::words_of(matches)?);
        self.flags.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for Worded<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Args)]
    struct Some {
        #[arg(short, long, default_value_t = 7)]
        number: u8,
        #[arg(short = 'D', long = "define")]
        defines: Vec<String>,
        #[arg(long)]
        text: Option<String>,
    }

    fn parse(words: &[&str]) -> Worded<Some> {
        let command = Worded::<Some>::augment_args(Command::new("x").no_binary_name(true));
        Worded::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    fn flags(said: &[(&str, &[&str])]) -> Flags {
        let one = |(name, values): &(&str, &[&str])| {
            let values = values.iter().copied().map(str::to_owned);
            ((*name).to_owned(), values.collect())
        };
        said.iter().map(one).collect()
    }

    #[test]
    fn what_was_said_is_kept_word_for_word_and_defaults_are_not() {
        assert_eq!(*parse(&[]).words(), Flags::new());
        assert_eq!(parse(&[]).number, 7);
        let said = parse(&["-n", "8", "-Da:b c", "--define=--x", "--text", ""]);
        let words: &[(&str, &[&str])] = &[
            ("number", &["8"]),
            ("define", &["a:b c", "--x"]),
            ("text", &[""]),
        ];
        assert_eq!(*said.words(), flags(words));
    }

    #[test]
    fn what_is_said_later_stands_over_what_was_said_before() {
        let before = parse(&["--number=8", "-Da", "-Db", "--text=--number=9"]);
        let said: Vec<String> = as_said(before.words()).collect();
        let expected = [
            "--define=a",
            "--define=b",
            "--number=8",
            "--text=--number=9",
        ];
        assert_eq!(said, expected);
        let same = parse(&[]).over(before.words()).unwrap();
        assert_eq!((&*same, same.words()), (&*before, before.words()));
        let later = parse(&["-Dc", "--number", "7"])
            .over(before.words())
            .unwrap();
        assert_eq!(
            (later.number, later.defines.concat()),
            (7, "abc".to_owned())
        );
        assert_eq!(later.text, before.text);
        assert_eq!(*parse(&[]).over(&Flags::new()).unwrap(), *parse(&[]));
        // Of others nothing is taken, and what says nothing is refused.
        let others = flags(&[("state", &["x"]), ("text", &["y"])]);
        assert_eq!(parse(&[]).over(&others).unwrap().words().len(), 1);
        let error = parse(&[])
            .over(&flags(&[("number", &["many"])]))
            .unwrap_err();
        assert!(error.to_string().contains("--number"), "{error}");
    }
}
