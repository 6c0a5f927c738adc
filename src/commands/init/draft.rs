//! The files that are drafted from a sample. Every guess is marked in a comment, with its reason.

use std::path::PathBuf;

use freshet_topics::cast;

use super::look::{Column, Kind, Looked};

/// The contract, a test, and an output where there is a date to make windows of: as paths in the folder, with their text.
pub(super) fn files(looked: &Looked) -> Vec<(PathBuf, String)> {
    let draft = Draft::of(looked);
    let name = &looked.name;
    let mut files = vec![
        (PathBuf::from(format!("domains/{name}.odcs.yaml")), draft.contract()),
        (PathBuf::from(format!("tests/{name}.yaml")), draft.test()),
    ];
    files.extend(draft.output().map(|text| (PathBuf::from(format!("outputs/{name}_by_month.sql")), text)));
    files
}

/// The guesses about a sample.
struct Draft<'a> {
    looked: &'a Looked,
    /// Whether the key was seen, and is not merely the first column.
    key_was_seen: bool,
    key: Vec<usize>,
    partition_by: usize,
    date: Option<usize>,
}

impl<'a> Draft<'a> {
    fn of(looked: &'a Looked) -> Self {
        let key = looked.key.clone().unwrap_or_else(|| vec![0]);
        let is_date = |index: &&usize| looked.columns[**index].kind == Kind::Date;
        let date = key.iter().find(is_date).copied();
        let partition_by = key.iter().find(|index| !is_date(index)).or(key.first()).copied().unwrap_or(0);
        Draft { looked, key_was_seen: looked.key.is_some(), key, partition_by, date }
    }

    fn contract(&self) -> String {
        let Looked { name, file, rows, .. } = self.looked;
        let mut text = format!(
            "# Drafted from {file}, {rows} rows. Lines marked `guess` were inferred from these rows: check and \
             correct them.\n\
             # Every key is explained in docs/contracts.md.\n\
             apiVersion: v3.2.0\nkind: DataContract\nid: {name}\nversion: 0.1.0\nstatus: draft\n\
             description:\n  purpose: Describe what a row of {name} is, and who sends it.\n\
             schema:\n  - name: {name}\n    physicalName: {name}\n    customProperties:\n      \
             - {{vendor: freshet, property: files, value: [{name}/]}}\n"
        );
        if let Some(date) = self.date {
            text += "      # guess: the date of a row, by which outputs are made in windows.\n";
            let date = &self.looked.columns[date].name;
            text += &format!("      - {{vendor: freshet, property: eventTime, value: {date}}}\n");
        }
        text += "      # Other columns of a file are kept in the column `extra`.\n      \
                 - {vendor: freshet, property: onNewColumn, value: keep}\n    properties:\n";
        for (index, column) in self.looked.columns.iter().enumerate() {
            self.property(index, column, &mut text);
        }
        text
    }

    fn property(&self, index: usize, column: &Column, text: &mut String) {
        let mut line = |said: &str| {
            text.push_str(said);
            text.push('\n');
        };
        let (logical, physical) = types(column.kind);
        line(&format!("      - name: {}", column.name));
        line(&format!("        # {}", seen(column, self.looked.rows)));
        line(&format!("        logicalType: {logical}"));
        line(&format!("        physicalType: {physical}"));
        line(&format!(
            "        description: {}",
            quoted(&format!("{}: describe what it means, with its unit.", column.heading))
        ));
        let position = self.key.iter().position(|key| *key == index);
        if let Some(position) = position {
            line(&format!("        # guess: {}", self.why_key()));
            line("        required: true");
            line("        primaryKey: true");
            line(&format!("        primaryKeyPosition: {}", position + 1));
        }
        if index == self.partition_by {
            line("        # guess: rows with the same value are applied in order.");
            line("        partitioned: true");
            line("        partitionKeyPosition: 1");
        }
        if !column.heading.eq_ignore_ascii_case(&column.name) {
            line(&format!("        synonyms: [{{synonym: {}}}]", quoted(&column.heading.to_lowercase())));
        }
    }

    fn why_key(&self) -> String {
        let names: Vec<&str> = self.key.iter().map(|index| self.looked.columns[*index].name.as_str()).collect();
        match (self.key_was_seen, names.len()) {
            (false, _) => "part of the key; no combination of the sample's columns is unique: choose the columns that \
                           identify a row when it is sent again"
                .to_owned(),
            (true, 1) => "the key: unique in the sample".to_owned(),
            (true, _) => {
                format!("part of the key: {} together are unique in the sample", names.join(", "))
            }
        }
    }

    /// The first rows of the sample load.
    fn test(&self) -> String {
        let header: Vec<String> = self.looked.columns.iter().map(|column| quoted(&column.heading)).collect();
        let mut text = format!(
            "# Rows and the expected result; `freshet check` runs this. These are the first rows of {}.\n\
             domain: {}\nheader: [{}]\nrows:\n",
            self.looked.file,
            self.looked.name,
            header.join(", ")
        );
        for sample in &self.looked.samples {
            let cells: Vec<String> = sample.iter().map(|cell| quoted(cell)).collect();
            text += &format!("  - cells: [{}]\n", cells.join(", "));
            let corrections = self.corrections(sample);
            if !corrections.is_empty() {
                text += &format!("    corrections: {{{}}}\n", corrections.join(", "));
            }
        }
        text
    }

    /// What the types that were guessed correct in a row. Only dates are: numbers are guessed so that they need no
    /// correction.
    fn corrections(&self, cells: &[String]) -> Vec<String> {
        let dates = self.looked.columns.iter().zip(cells).filter(|(column, _)| column.kind == Kind::Date);
        let correction = |(column, cell): (&Column, &String)| {
            let rule = cast::date(cell)?.correction?;
            Some(format!("{}: {rule}", column.name))
        };
        dates.filter_map(correction).collect()
    }

    /// Counts and means by month, for each value of the column that rows are kept together by.
    fn output(&self) -> Option<String> {
        let (name, columns) = (&self.looked.name, &self.looked.columns);
        let date = &columns[self.date?].name;
        let by = (Some(self.partition_by) != self.date).then(|| columns[self.partition_by].name.as_str());
        let mut key = vec!["month"];
        let mut select = vec![":window_start::date AS month".to_owned()];
        if let Some(by) = by {
            key.push(by);
            select.push(format!("t.{by}"));
        }
        select.push("count(*) AS rows".to_owned());
        let measures = columns.iter().enumerate().filter(|(index, column)| {
            matches!(column.kind, Kind::Int4 | Kind::Int8 | Kind::Float8) && !self.key.contains(index)
        });
        for (_, column) in measures {
            let measure = &column.name;
            select.push(format!("sum(t.{measure}::float8 ORDER BY t.{date}) / count(t.{measure}) AS {measure}_mean"));
        }
        let group = by.map_or(String::new(), |by| format!("\nGROUP BY t.{by}"));
        // Without a group an aggregate has a row also where there is nothing to add up.
        let having = if by.is_none() { "\nHAVING count(*) > 0" } else { "" };
        Some(format!(
            "/* freshet\ndescription: Rows of {name} and the means of its measures, month by month. A draft.\n\
             windows: [month]\nfacts: [{name}]\nkey: [{}]\n*/\n\
             SELECT {}\nFROM {name} AS t\n\
             WHERE t.{date} >= :window_start AND t.{date} < :window_end{group}{having}\n",
            key.join(", "),
            select.join(",\n       "),
        ))
    }
}

/// The logical and the physical type of a contract.
const fn types(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Date => ("date", "date"),
        Kind::Int4 => ("integer", "int4"),
        Kind::Int8 => ("integer", "int8"),
        Kind::Float8 => ("number", "float8"),
        Kind::Bool => ("boolean", "bool"),
        Kind::Text | Kind::Unknown => ("string", "text"),
    }
}

/// What was seen of a column, on one line.
fn seen(column: &Column, rows: u64) -> String {
    let empty = match column.empty {
        0 => "no cell is empty".to_owned(),
        empty if empty == rows => "every cell is empty: guess, text".to_owned(),
        empty => format!("{empty} of {rows} cells are empty"),
    };
    let bounds = column.bounds.as_ref().map(|(least, greatest)| format!("from {least} to {greatest}"));
    let values = column.values.as_ref().map(|values| {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        format!("only {}", values.join(", "))
    });
    let said: Vec<String> = [Some(empty), bounds, values].into_iter().flatten().collect();
    format!("seen: {}", said.join("; "))
}

/// A text as YAML reads it back, whatever it holds: JSON is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn column(heading: &str, name: &str, kind: Kind) -> Column {
        Column { heading: heading.into(), name: name.into(), empty: 0, kind, bounds: None, values: None }
    }

    fn looked(key: Option<Vec<usize>>) -> Looked {
        let mut ph = column("pH", "ph", Kind::Float8);
        (ph.empty, ph.bounds) = (2, Some(("6.5".into(), "8.1".into())));
        let mut safe = column("Safe \"now\"", "safe_now", Kind::Bool);
        safe.values = Some(BTreeSet::from(["no".to_owned(), "yes".to_owned()]));
        Looked {
            name: "water".into(),
            file: "water.csv".into(),
            columns: vec![column("Site", "site", Kind::Text), column("Day", "day", Kind::Date), ph, safe],
            rows: 9,
            samples: vec![vec!["A".into(), "2025-01-01".into(), String::new(), "yes".into()]],
            key,
        }
    }

    #[test]
    fn a_guess_is_told_as_one_with_what_it_rests_on() {
        let contract = Draft::of(&looked(Some(vec![0, 1]))).contract();
        for line in [
            "# guess: part of the key: site, day together are unique in the sample",
            "# seen: 2 of 9 cells are empty; from 6.5 to 8.1",
            "# seen: no cell is empty; only \"no\", \"yes\"",
            "property: eventTime, value: day",
            "synonyms: [{synonym: \"safe \\\"now\\\"\"}]",
        ] {
            assert!(contract.contains(line), "{line} is not in:\n{contract}");
        }
        let unknown = Draft::of(&looked(None)).contract();
        assert!(unknown.contains("no combination of the sample's columns is unique"), "{unknown}");
    }

    #[test]
    fn the_first_rows_are_a_test_with_what_is_corrected_in_them() {
        let mut looked = looked(Some(vec![0, 1]));
        looked.samples.push(vec!["B".into(), "2025-1-2".into(), "7".into(), "no".into()]);
        let test = Draft::of(&looked).test();
        let rows = test.split_once("rows:\n").expect("rows").1;
        let expected = "  - cells: [\"A\", \"2025-01-01\", \"\", \"yes\"]\n  \
                        - cells: [\"B\", \"2025-1-2\", \"7\", \"no\"]\n    corrections: {day: date_normalised}\n";
        assert_eq!(rows, expected);
    }

    #[test]
    fn an_output_needs_a_date_in_the_key() {
        let output = Draft::of(&looked(Some(vec![0, 1]))).output().expect("an output");
        assert!(output.contains("key: [month, site]") && output.contains("AS ph_mean"), "{output}");
        assert_eq!(Draft::of(&looked(Some(vec![0]))).output(), None);
    }
}
