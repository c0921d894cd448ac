//! What the command line says.

use serde::Serialize;

use crate::shape::Shape;

/// What is to be measured, and how.
#[derive(Debug, Serialize)]
pub(crate) struct Options {
    /// By name, in the order in which they were said; all where none was.
    pub(crate) rows: Vec<String>,
    /// Small fleets and little content: whether everything works, not how well.
    pub(crate) quick: bool,
    /// Whom to measure ours against; everybody that is here where it was not said.
    others: Option<Vec<String>>,
    #[serde(flatten)]
    over: Over,
    pub(crate) files: Option<usize>,
    pub(crate) topology: String,
    disk: bool,
    cold_memory: bool,
    #[serde(skip)]
    pub(crate) action: Action,
}

/// What was said to stand over what a row would take.
#[derive(Debug, Default, Serialize)]
struct Over {
    hosts: Option<u16>,
    /// 0 for none.
    rate_mbit: Option<u32>,
    seed_mbit: Option<u32>,
    sites: Option<u16>,
    border_mbit: Option<u32>,
    in_a_row: Option<u16>,
    mib: Option<usize>,
}

/// What to do with all that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Measure,
    /// Name the rows.
    List,
    /// Say how to get what is compared with.
    Install,
}

impl Options {
    /// # Errors
    /// What is wrong with the words.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rows: Vec::new(),
            quick: false,
            others: None,
            over: Over::default(),
            files: None,
            topology: "lanes".to_owned(),
            disk: false,
            cold_memory: false,
            action: Action::Measure,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let over = &mut options.over;
            match word.as_str() {
                "--row" => options.rows.push(value()?),
                "--list" => options.action = Action::List,
                "--install" => options.action = Action::Install,
                "--quick" => options.quick = true,
                "--others" => {
                    let names = value()?;
                    let names = names.split(',').filter(|name| *name != "none");
                    options.others = Some(names.map(str::to_owned).collect());
                }
                "--hosts" => over.hosts = Some(number(&value()?)?),
                "--rate-mbit" => over.rate_mbit = Some(number(&value()?)?),
                "--seed-mbit" => over.seed_mbit = Some(number(&value()?)?),
                "--sites" => over.sites = Some(number(&value()?)?),
                "--border-mbit" => over.border_mbit = Some(number(&value()?)?),
                "--in-a-row" => over.in_a_row = Some(number(&value()?)?),
                "--mib" => over.mib = Some(number(&value()?)?),
                "--files" => options.files = Some(number(&value()?)?),
                "--topology" => options.topology = value()?,
                "--disk" => options.disk = true,
                "--cold-memory" => options.cold_memory = true,
                "--bench" => {} // cargo says so
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }

    /// A row's shape, with what was said standing over it.
    ///
    /// # Errors
    /// What does not go together.
    pub(crate) fn shape(&self, of_row: Shape) -> Result<Shape, String> {
        let mut shape = if self.quick { of_row.quick() } else { of_row };
        let over = &self.over;
        shape.hosts = over.hosts.unwrap_or(shape.hosts);
        shape.rate_mbit = match over.rate_mbit {
            Some(0) => None,
            said => said.or(shape.rate_mbit),
        };
        shape.seed_mbit = over.seed_mbit.or(shape.seed_mbit);
        shape.sites = over.sites.or(shape.sites);
        shape.border_mbit = over.border_mbit.or(shape.border_mbit);
        shape.in_a_row = over.in_a_row.unwrap_or(shape.in_a_row);
        shape.mib = over.mib.unwrap_or(shape.mib);
        shape.check()?;
        Ok(shape)
    }

    /// Whether ours is measured against this one.
    pub(crate) fn wants_other(&self, name: &str) -> bool {
        let named = self.others.as_ref();
        named.is_none_or(|names| names.iter().any(|it| it == name))
    }

    /// The names of others that were said.
    pub(crate) fn others_named(&self) -> impl Iterator<Item = &str> {
        self.others.iter().flatten().map(String::as_str)
    }

    /// Whether fleets keep their files in memory, as the numbers of other tools were taken.
    pub(crate) fn is_in_memory(&self) -> bool {
        !self.disk
    }

    /// Whether memory is made ready before.
    pub(crate) fn warms_memory(&self) -> bool {
        !self.cold_memory
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse()
        .map_err(|_| format!("{word:?} is no number that fits"))
}
