//! Mistakes in the files of a pipeline folder, with their positions: one line each, all at once.

use std::fmt;

/// A position in a file, counted from 1 as in editors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Place {
    /// The first character of a file.
    pub const START: Place = Place { line: 1, column: 1 };
}

/// One mistake: where it is, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file, as a path in the pipeline folder.
    pub file: String,
    /// Its position in the file.
    pub place: Place,
    /// What is wrong, and what to write instead.
    pub said: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(formatter, "{}:{line}:{column}: {}", self.file, self.said)
    }
}

/// The mistakes found in one file so far.
#[derive(Debug)]
pub struct Mistakes {
    file: String,
    found: Vec<Mistake>,
}

impl Mistakes {
    /// No mistakes yet, for this file, named as a path in the pipeline folder.
    pub fn of(file: &str) -> Self {
        Mistakes { file: file.to_owned(), found: Vec::new() }
    }

    /// Adds one.
    pub fn add(&mut self, place: Place, said: impl Into<String>) {
        self.found.push(Mistake { file: self.file.clone(), place, said: said.into() });
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// All of them, by place.
    pub fn into_sorted(mut self) -> Vec<Mistake> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}

/// `; did you mean …?` if one of the candidates is close to `name`, else nothing.
///
/// | name | candidates | hint |
/// |---|---|---|
/// | `requird` | required, unique | `; did you mean required?` |
/// | `colour` | required, unique | |
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    // One letter in three, and at most three.
    let near = |candidate: &str| (name.chars().count().max(candidate.chars().count()) / 3).min(3);
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= near(candidate))
        .min()
        .map_or(String::new(), |(_, candidate)| format!("; did you mean {candidate}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let cases = [
            ("requird", "; did you mean required?"),
            ("Required", "; did you mean required?"),
            ("uniqeu", "; did you mean unique?"),
            ("colour", ""),
            ("", ""),
        ];
        for (name, hint) in cases {
            assert_eq!(did_you_mean(name, ["required", "unique"]), hint, "{name}");
        }
    }

    #[test]
    fn mistakes_come_by_place_and_once() {
        let mut mistakes = Mistakes::of("domains/a.odcs.yaml");
        for (line, said) in [(3, "b"), (1, "a"), (3, "b")] {
            mistakes.add(Place { line, column: 2 }, said);
        }
        let said: Vec<String> = mistakes.into_sorted().iter().map(Mistake::to_string).collect();
        assert_eq!(said, ["domains/a.odcs.yaml:1:2: a", "domains/a.odcs.yaml:3:2: b"]);
    }
}
