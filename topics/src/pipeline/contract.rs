//! A contract: one domain in one file, in the Open Data Contract Standard v3.2.0.
//!
//! The standard's own keys are used where it has them; the rest is in `customProperties` of the vendor `freshet`. Known
//! keys for people and other tools are ignored; all other keys are mistakes. `docs/contracts.md` names every key.

mod columns;
mod custom;
mod form;
pub(crate) mod rules;
mod sample;
mod words;

use std::time::Duration;

use self::columns::{Columns, Read};
use self::custom::Custom;
use self::words::{for_people, identifier, leaked, one_of, text_of, texts_of, value_of};
use super::mistake::{Mistakes, Place};
use super::pattern;
use super::yaml::{Document, Map, Node};
use crate::{Cast, Column, Domain, EventTime, NewColumn, Observed, Overwrite};

/// The version of the standard that is read.
pub const API_VERSION: &str = "v3.2.0";
/// A domain's name is part of topics, consumer groups, service names and labels.
const DOMAIN_NAME_BYTES_MAX: usize = 40;
/// Names of indexes and constraints are the table's name and another word.
const TABLE_NAME_BYTES_MAX: usize = 48;

/// A domain, with the positions needed to report conflicts with other contracts of its folder.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) domain: Domain,
    pub(super) name: Place,
    pub(super) table: Place,
    /// One for each pattern of the domain.
    pub(super) patterns: Vec<Place>,
    /// The positions of references to another domain, with their columns.
    pub(super) references: Vec<(Place, Column)>,
    /// The positions of samples that another column scales, with their columns.
    pub(super) scales: Vec<(Place, Column)>,
}

/// Reads a contract. `None` if mistakes make it impossible to build a domain.
pub(super) fn read(document: &Document<'_>, mistakes: &mut Mistakes) -> Option<Contract> {
    let map = document.root().map(mistakes)?;
    if let Some(version) = map.need("apiVersion", mistakes) {
        one_of(&version, &[(API_VERSION, ())], mistakes);
    }
    if let Some(kind) = map.need("kind", mistakes) {
        one_of(&kind, &[("DataContract", ())], mistakes);
    }
    for key in ["id", "version"] {
        map.need(key, mistakes).and_then(|node| node.text(mistakes));
    }
    let purpose = purpose(&map, mistakes);
    let levels = service_levels(&map, mistakes);
    let schema = map.need("schema", mistakes);
    for_people(
        &map,
        &[
            "name",
            "tenant",
            "tags",
            "status",
            "servers",
            "dataProduct",
            "domain",
            "context",
            "support",
            "price",
            "team",
            "roles",
            "slaDefaultElement",
            "authoritativeDefinitions",
            "customProperties",
            "contractCreatedTs",
        ],
    );
    map.end(mistakes);
    let schema = schema?;
    let items = schema.list(mistakes);
    if items.len() != 1 {
        mistakes.add(schema.place(), format!("a contract describes one table: `schema` has {} entries", items.len()));
    }
    read_schema(items.first()?.map(mistakes)?, purpose, levels, mistakes)
}

fn purpose(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> &'static str {
    let Some(description) = map.get("description").and_then(|node| node.map(mistakes)) else { return "" };
    let purpose = text_of(&description, "purpose", mistakes);
    for_people(&description, &["usage", "limitations", "authoritativeDefinitions", "customProperties"]);
    description.end(mistakes);
    purpose
}

/// Service levels that freshet uses.
#[derive(Debug, Clone, Copy, Default)]
struct ServiceLevels {
    latency: Option<Duration>,
    frequency: Option<Duration>,
}

/// Reads the service levels `latency` and `frequency`; others are for people.
fn service_levels(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> ServiceLevels {
    let mut levels = ServiceLevels::default();
    for item in map.get("slaProperties").map(|list| list.list(mistakes)).unwrap_or_default() {
        let Some(level) = item.map(mistakes) else { continue };
        let property = level.need("property", mistakes).and_then(|node| node.text(mistakes));
        if let Some(property @ ("latency" | "frequency")) = property {
            let number = level.need("value", mistakes).and_then(|node| Some((node.place(), node.number(mistakes)?)));
            let seconds = [("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0)];
            let unit = level.need("unit", mistakes).and_then(|node| one_of(&node, &seconds, mistakes));
            if let (Some((place, number)), Some(unit)) = (number, unit) {
                let level = Duration::try_from_secs_f64(number * unit).ok().filter(|level| !level.is_zero());
                if level.is_none() {
                    mistakes.add(place, format!("a {property} is above 0"));
                }
                match property {
                    "latency" => levels.latency = level,
                    _ => levels.frequency = level,
                }
            }
        } else {
            for_people(&level, &["value", "unit"]);
        }
        for_people(
            &level,
            &[
                "id",
                "valueExt",
                "element",
                "driver",
                "description",
                "scheduler",
                "schedule",
                "customProperties",
                "authoritativeDefinitions",
            ],
        );
        level.end(mistakes);
    }
    levels
}

fn read_schema(
    map: Map<'_, '_>,
    purpose: &'static str,
    levels: ServiceLevels,
    mistakes: &mut Mistakes,
) -> Option<Contract> {
    let place_of = |node: Option<Node<'_, '_>>| node.map_or(map.place(), |node| node.place());
    let named = map.need("name", mistakes);
    let name = named.and_then(|node| identifier(&node, "a domain", DOMAIN_NAME_BYTES_MAX, mistakes));
    let physical = map.get("physicalName");
    let table = match physical {
        Some(node) => identifier(&node, "a table", TABLE_NAME_BYTES_MAX, mistakes),
        None => name,
    };
    let said = text_of(&map, "description", mistakes);
    let custom = Custom::of(&map, mistakes);
    let missing = custom.value("missingValues", mistakes);
    let missing_values: &'static [&'static str] =
        missing.map(|node| columns::missing_values(&node, mistakes)).unwrap_or_default().leak();
    let properties = map.need("properties", mistakes);
    let columns = properties.map(|list| columns::read_all(&list, missing_values, mistakes)).unwrap_or_default();
    let row_rules = rules::of_rows(&map, &columns, mistakes);
    let event_time = event_time(&custom, &columns, mistakes);
    let on_new_column = on_new_column(&custom, mistakes);
    let on_overwrite = on_overwrite(&custom, mistakes);
    let form = form::read(&custom, mistakes);
    let keeps_corrections = custom
        .value("corrections", mistakes)
        .and_then(|node| one_of(&node, &[("count", false), ("keep", true)], mistakes))
        .unwrap_or_default();
    let files = files(&custom, name, place_of(named), mistakes);
    let key = key(&columns, place_of(properties), mistakes);
    let partition_by = partition_by(&columns, event_time.is_some(), place_of(properties), mistakes);
    for_people(
        &map,
        &[
            "id",
            "physicalType",
            "logicalType",
            "businessName",
            "deprecated",
            "synonyms",
            "authoritativeDefinitions",
            "tags",
            "dataGranularityDescription",
            "context",
        ],
    );
    let (name_place, table_place) = (place_of(named), place_of(physical.or(named)));
    custom.end(mistakes);
    map.end(mistakes);
    let (patterns, pattern_places): (Vec<&'static str>, Vec<Place>) = files.into_iter().unzip();
    let reads = columns.reads;
    let references = reads.iter().filter_map(|read| Some((read.reference?, read.column))).collect();
    let scales = reads.iter().filter_map(|read| Some((read.scale?, read.column))).collect();
    let domain = Domain {
        name: name?,
        description: if said.is_empty() { purpose } else { said },
        table: table?,
        patterns: patterns.leak(),
        key: key.leak(),
        partition_by: partition_by?,
        event_time,
        columns: reads.iter().map(|read| form.column(read.column)).collect::<Vec<Column>>().leak(),
        row_rules,
        on_new_column,
        on_overwrite,
        on_near_miss: form.on_near_miss,
        delimiter: form.delimiter,
        encoding: form.encoding,
        keeps_corrections,
        missing_values,
        latency: levels.latency,
        frequency: levels.frequency,
    };
    Some(Contract { domain, name: name_place, table: table_place, patterns: pattern_places, references, scales })
}

/// The object keys of the domain: `files`, or everything under its name.
fn files(
    custom: &Custom<'_, '_>,
    name: Option<&'static str>,
    place: Place,
    mistakes: &mut Mistakes,
) -> Vec<(&'static str, Place)> {
    let Some(node) = custom.value("files", mistakes) else {
        return name.map(|name| (leaked(&format!("{name}/")), place)).into_iter().collect();
    };
    let files = texts_of(&node, mistakes);
    if files.is_empty() {
        mistakes.add(node.place(), "`files` is empty: no file would ever be read");
    }
    for (pattern, place) in &files {
        if let Some(said) = pattern::mistake_in(pattern) {
            mistakes.add(*place, said);
        }
    }
    files
}

fn on_new_column(custom: &Custom<'_, '_>, mistakes: &mut Mistakes) -> NewColumn {
    let words = [
        ("ignore", NewColumn::Ignore),
        ("keep", NewColumn::Keep),
        ("add", NewColumn::Add),
        ("reject", NewColumn::Reject),
    ];
    let said = custom.value("onNewColumn", mistakes).and_then(|node| one_of(&node, &words, mistakes));
    said.unwrap_or(NewColumn::Ignore)
}

fn on_overwrite(custom: &Custom<'_, '_>, mistakes: &mut Mistakes) -> Overwrite {
    let words = [("merge", Overwrite::Merge), ("replace", Overwrite::Replace)];
    let said = custom.value("onOverwrite", mistakes).and_then(|node| one_of(&node, &words, mistakes));
    said.unwrap_or(Overwrite::Merge)
}

/// `eventTime` and `observedWhen`.
fn event_time(custom: &Custom<'_, '_>, columns: &Columns, mistakes: &mut Mistakes) -> Option<EventTime> {
    let date = custom.value("eventTime", mistakes);
    let observed = custom.value("observedWhen", mistakes);
    let observed_when = observed.and_then(|node| observed_when(&node, columns, mistakes));
    if let (Some(node), None) = (observed, date) {
        mistakes.add(node.place(), "`observedWhen` without `eventTime`: rows without a date are not observed on a day");
    }
    let node = date?;
    let column = columns.at(&node, mistakes)?;
    if column.cast != Cast::Date || !column.is_filled() {
        let said = format!("`{}` places rows in event time: it must be a required column of type date", column.name);
        mistakes.add(node.place(), said);
    }
    Some(EventTime { date: column.name, observed_when })
}

fn observed_when(node: &Node<'_, '_>, columns: &Columns, mistakes: &mut Mistakes) -> Option<Observed> {
    let map = node.map(mistakes)?;
    let mut entries = map.entries();
    let (Some((name, place, value)), None) = (entries.next(), entries.next()) else {
        mistakes.add(node.place(), "one column and its value are expected here, such as `{is_projected: false}`");
        return None;
    };
    let column = columns.named(name, place, mistakes)?;
    Some(Observed { column: column.name, value: value_of(&value, column.cast, mistakes)? })
}

/// The columns with `primaryKey`, by `primaryKeyPosition`.
fn key(columns: &Columns, place: Place, mistakes: &mut Mistakes) -> Vec<&'static str> {
    let reads = &columns.reads;
    let mut key: Vec<(Option<i64>, &Read)> = Vec::new();
    for read in reads {
        let Some(at) = read.key else { continue };
        key.push((at.position, read));
    }
    if key.is_empty() && columns.are_all_read() {
        mistakes.add(place, "no column has `primaryKey: true`: which columns identify a row?");
    }
    key.sort_by_key(|(position, _)| *position);
    let is_alone = key.len() == 1;
    for (wanted, (position, read)) in (1..).zip(&key).take_while(|_| columns.are_all_read()) {
        let place = read.key.map_or(read.place, |at| at.place);
        match position {
            Some(position) if *position == wanted => {}
            None if is_alone => {}
            None => {
                let said =
                    format!("the position of `{}` in the key is missing: set `primaryKeyPosition`", read.column.name);
                mistakes.add(place, said);
            }
            Some(position) => {
                let said = format!("positions in the key must be 1, 2, 3, …: `{}` has {position}", read.column.name);
                mistakes.add(place, said);
            }
        }
        if read.column.name == "id" && !is_alone {
            mistakes.add(read.place, "a column `id` must be the whole key of its table: choose another name");
        }
    }
    for read in reads.iter().filter(|read| read.column.name == "id" && read.key.is_none()) {
        mistakes
            .add(read.place, "every table has its own `id`: choose another name for the column, or make it the key");
    }
    key.iter().map(|(_, read)| read.column.name).collect()
}

/// The column with `partitioned`.
fn partition_by(columns: &Columns, is_fact: bool, place: Place, mistakes: &mut Mistakes) -> Option<&'static str> {
    let mut partitioned = columns.reads.iter().filter_map(|read| Some((read.partition?, &read.column)));
    let Some((place, column)) = partitioned.next() else {
        let said = "no column has `partitioned: true`: rows with the same value stay in order, in one partition";
        if columns.are_all_read() {
            mistakes.add(place, said);
        }
        return None;
    };
    for (place, other) in partitioned {
        mistakes.add(place, format!("rows are already partitioned by `{}`, not by `{}`", column.name, other.name));
    }
    // Changes of a dimension are recorded by this value.
    if !is_fact && !column.is_filled() {
        let said = format!("`{}` partitions a domain without event time: it must be a required column", column.name);
        mistakes.add(place, said);
    }
    Some(column.name)
}
