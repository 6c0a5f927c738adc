//! The columns of a contract: `schema[].properties`.

use super::custom::{Custom, Property};
use super::words::{flag_of, for_people, identifier, leaked, one_of, text_of, texts_of, value_of};
use super::{rules, sample};
use crate::heading::folded;
use crate::pipeline::mistake::{Mistakes, Place, did_you_mean};
use crate::pipeline::yaml::{Map, Node};
use crate::types::{LOGICAL_TYPES, physical};
use crate::{Cast, Column, Instead, Otherwise, Reference};

/// Columns that every table has besides its domain's, Postgres' own, and names that freshet's statements use.
const RESERVED: [&str; 15] = [
    "src_object",
    "src_gen",
    "src_row",
    "src_ord",
    "value_ord",
    "extra",
    "corrections",
    "changed",
    "ord",
    "tableoid",
    "xmin",
    "cmin",
    "xmax",
    "cmax",
    "ctid",
];

/// Keys of a property that are for people and other tools.
const FOR_PEOPLE: [&str; 16] = [
    "id",
    "businessName",
    "deprecated",
    "authoritativeDefinitions",
    "tags",
    "context",
    "semanticType",
    "encryptedName",
    "transformSourceObjects",
    "transformLogic",
    "transformDescription",
    "examples",
    "criticalDataElement",
    "items",
    "properties",
    "dataGranularityDescription",
];

/// A column, with details that its domain needs.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) column: Column,
    /// The position of its name.
    pub(super) place: Place,
    /// Its position in the key, if it is part of it.
    pub(super) key: Option<KeyPosition>,
    /// The position at which it is declared as the partitioning column.
    pub(super) partition: Option<Place>,
    /// The position of its reference.
    pub(super) reference: Option<Place>,
    /// The position of its sample's scale.
    pub(super) scale: Option<Place>,
}

/// A position in a key, from 1; `None` if none is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyPosition {
    pub(super) position: Option<i64>,
    pub(super) place: Place,
}

/// The columns of a contract.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Those that could be read, in their order.
    pub(super) reads: Vec<Read>,
    /// Names of the others; their mistakes are already reported.
    unread: Vec<String>,
}

impl Columns {
    /// Whether all could be read, so that a missing column is really missing.
    pub(super) fn are_all_read(&self) -> bool {
        self.unread.is_empty()
    }

    /// The column of that name, or a mistake.
    pub(super) fn named(&self, name: &str, place: Place, mistakes: &mut Mistakes) -> Option<&Column> {
        let found = self.reads.iter().map(|read| &read.column).find(|column| column.name == name);
        if found.is_none() && !self.unread.iter().any(|unread| unread == name) {
            let hint = did_you_mean(name, self.reads.iter().map(|read| read.column.name));
            mistakes.add(place, format!("there is no column `{name}`{hint}"));
        }
        found
    }

    /// The column that a value names, or a mistake.
    pub(super) fn at(&self, node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Option<&Column> {
        self.named(node.text(mistakes)?, node.place(), mistakes)
    }
}

/// All columns, in their order. `missing` are the cells that stand for "not known" in the whole contract.
pub(super) fn read_all(list: &Node<'_, '_>, missing: &[&'static str], mistakes: &mut Mistakes) -> Columns {
    let mut columns: Vec<Read> = Vec::new();
    let mut unread = Vec::new();
    for item in list.list(mistakes) {
        let Some(map) = item.map(mistakes) else { continue };
        let name = map.get("name").and_then(|name| name.as_text()).map(str::to_owned);
        let Some(read) = read(map, missing, mistakes) else {
            unread.extend(name);
            continue;
        };
        if columns.iter().any(|other| other.column.name == read.column.name) {
            mistakes.add(read.place, format!("the column `{}` occurs twice", read.column.name));
            continue;
        }
        columns.push(read);
    }
    check_aliases(&columns, mistakes);
    Columns { reads: columns, unread }
}

fn read(map: Map<'_, '_>, missing: &[&'static str], mistakes: &mut Mistakes) -> Option<Read> {
    let named = map.need("name", mistakes);
    let place = named.map_or(map.place(), |node| node.place());
    let name = named.and_then(|node| identifier(&node, "a column", usize::MAX, mistakes));
    if let Some(name) = name.filter(|name| RESERVED.contains(name)) {
        mistakes.add(place, format!("`{name}` is reserved by freshet or Postgres: choose another name for the column"));
    }
    check_physical_name(&map, name, mistakes);
    let custom = Custom::of(&map, mistakes);
    let cast = cast_of(&map, &custom, mistakes);
    let required = flag_of(&map, "required", mistakes);
    let description = text_of(&map, "description", mistakes);
    let (aliases, references) = (aliases_of(&map, mistakes), references_of(&map, mistakes));
    let personal = personal(&map, mistakes);
    let (key, partition) = (key_of(&map, mistakes), partition_of(&map, mistakes));
    let own = custom.value("missingValues", mistakes).map(|node| missing_values(&node, mistakes)).unwrap_or_default();
    let defaults = Defaults { cast, required, is_key: key.is_some() };
    let [absent, empty, uncastable] =
        ["absent", "empty", "uncastable"].map(|name| defaults.instead(name, custom.property(name), mistakes));
    let rules = rules::of_column(&map, cast, mistakes);
    let sample = custom.value("sample", mistakes).and_then(|node| sample::read(&node, mistakes));
    for_people(&map, &FOR_PEOPLE);
    custom.end(mistakes);
    map.end(mistakes);
    let mut missing_values = missing.to_vec();
    missing_values.extend(own.iter().filter(|text| !missing.contains(text)));
    let column = Column {
        name: name?,
        description,
        aliases,
        cast: cast?,
        absent,
        empty,
        uncastable,
        rules,
        references: references.map(|(reference, _)| reference),
        decimal_comma: false,
        personal,
        missing_values: missing_values.leak(),
        sample: sample.map(|(sample, _)| sample),
    };
    check_values(&column, required, place, mistakes);
    let (reference, scale) = (references.map(|(_, place)| place), sample.and_then(|(_, place)| place));
    Some(Read { column, place, key, partition, reference, scale })
}

fn check_physical_name(map: &Map<'_, '_>, name: Option<&str>, mistakes: &mut Mistakes) {
    let Some(physical) = map.get("physicalName") else { return };
    if physical.text(mistakes).is_some_and(|physical| Some(physical) != name) {
        mistakes.add(physical.place(), "a column's name in the table is its `name`: leave `physicalName` out");
    }
}

/// The type: `logicalType`, and `physicalType` if it is not the default for that.
fn cast_of(map: &Map<'_, '_>, custom: &Custom<'_, '_>, mistakes: &mut Mistakes) -> Option<Cast> {
    let logical = map.need("logicalType", mistakes);
    let usual = logical.and_then(|node| one_of(&node, &LOGICAL_TYPES, mistakes));
    let cast = match map.get("physicalType") {
        None => usual,
        Some(node) => match physical(node.text(mistakes)?) {
            Err(said) => {
                mistakes.add(node.place(), said);
                None
            }
            Ok(cast) => {
                let (Some(usual), Some(logical)) = (usual, logical) else { return Some(cast) };
                if cast.logical_type() != usual.logical_type() {
                    let said = format!(
                        "the logicalType of {} is {}, not {}",
                        cast.sql_type(),
                        cast.logical_type(),
                        usual.logical_type()
                    );
                    mistakes.add(logical.place(), said);
                }
                Some(cast)
            }
        },
    };
    let Some(trim) = custom.value("trim", mistakes) else { return cast };
    let trimmed = trim.flag(mistakes)?;
    match cast {
        Some(Cast::TrimmedText) if !trimmed => Some(Cast::Text),
        Some(Cast::TrimmedText) | None => cast,
        Some(other) => {
            let said = format!("blanks around {} are always ignored: `trim` is only for text", other.sql_type());
            mistakes.add(trim.place(), said);
            cast
        }
    }
}

fn aliases_of(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> &'static [&'static str] {
    let Some(list) = map.get("synonyms") else { return &[] };
    let mut aliases = Vec::new();
    for item in list.list(mistakes) {
        let Some(synonym) = item.map(mistakes) else { continue };
        if let Some(text) = synonym.need("synonym", mistakes).and_then(|node| node.text(mistakes)) {
            aliases.push(leaked(&text.to_lowercase()));
        }
        for_people(&synonym, &["id", "description", "locale", "source", "status", "customProperties"]);
        synonym.end(mistakes);
    }
    aliases.leak()
}

/// A heading that matches two columns is ambiguous, and the synonym of one column that is the name of another never
/// counts. Compared as headings are: separators do not matter.
fn check_aliases(columns: &[Read], mistakes: &mut Mistakes) {
    let mut seen: Vec<(String, &str)> =
        columns.iter().map(|read| (folded(read.column.name), read.column.name)).collect();
    for Read { column, place, .. } in columns {
        for alias in column.aliases {
            let heading = folded(alias);
            if let Some((_, other)) = seen.iter().find(|(name, of)| *name == heading && *of != column.name) {
                let said = format!("the synonym `{alias}` of `{}` is also a name of `{other}`", column.name);
                mistakes.add(*place, said);
            }
            seen.push((heading, column.name));
        }
    }
}

/// The column of another domain that it refers to, and the position of that declaration.
fn references_of(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<(Reference, Place)> {
    let list = map.get("relationships")?;
    let items = list.list(mistakes);
    if items.len() > 1 {
        mistakes.add(list.place(), "a column refers to at most one other column");
    }
    let relationship = items.first()?.map(mistakes)?;
    if let Some(kind) = relationship.get("type") {
        one_of(&kind, &[("foreignKey", ())], mistakes);
    }
    let to = relationship.need("to", mistakes);
    for_people(&relationship, &["id", "description", "customProperties"]);
    relationship.end(mistakes);
    let (to, place) = (to?.text(mistakes)?, to?.place());
    let Some((domain, column)) = to.split_once('.') else {
        mistakes.add(place, format!("`{to}` is not a column: write `domain.column`"));
        return None;
    };
    Some((Reference { domain: leaked(domain), column: leaked(column) }, place))
}

/// `classification: personal`; other classes are for people.
fn personal(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> bool {
    let Some(node) = map.get("classification") else { return false };
    let Some(class) = node.text(mistakes) else { return false };
    let hint = did_you_mean(class, ["personal"]);
    if class != "personal" && !hint.is_empty() {
        mistakes.add(node.place(), format!("unknown classification `{class}`{hint}"));
    }
    class == "personal"
}

fn key_of(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<KeyPosition> {
    let position = map.get("primaryKeyPosition");
    let is_key = flag_of(map, "primaryKey", mistakes);
    if let Some(unique) = map.get("unique")
        && unique.flag(mistakes) == Some(true)
        && !is_key
    {
        mistakes.add(unique.place(), "only the key is unique: leave `unique` out, or make it `primaryKey`");
    }
    if let Some(position) = position.filter(|_| !is_key) {
        mistakes.add(position.place(), "`primaryKeyPosition` without `primaryKey: true`");
    }
    let place = position.map_or(map.place(), |node| node.place());
    is_key.then(|| KeyPosition { position: position.and_then(|node| node.whole(mistakes)), place })
}

fn partition_of(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<Place> {
    if let Some(position) = map.get("partitionKeyPosition")
        && position.whole(mistakes).is_some_and(|position| position != 1)
    {
        mistakes.add(position.place(), "rows are partitioned by one column: its position is 1");
    }
    let partitioned = map.get("partitioned")?;
    (partitioned.flag(mistakes) == Some(true)).then(|| partitioned.place())
}

/// Cells that stand for "not known".
pub(super) fn missing_values(node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Vec<&'static str> {
    let mut values = Vec::new();
    for (text, place) in texts_of(node, mistakes) {
        if crate::cast::trim(text).is_empty() {
            mistakes.add(place, "a cell with only blanks is empty: `empty` sets its value");
        } else if crate::cast::trim(text) != text {
            mistakes.add(place, format!("blanks around a cell are ignored: write `{}`", crate::cast::trim(text)));
        } else {
            values.push(text);
        }
    }
    values
}

/// The value for a cell without one, unless a custom property sets it.
struct Defaults {
    cast: Option<Cast>,
    required: bool,
    /// Whether it is part of the key: without a readable value the row would belong to another entity.
    is_key: bool,
}

impl Defaults {
    fn instead(&self, name: &str, property: Option<Property<'_, '_>>, mistakes: &mut Mistakes) -> Instead {
        let is_unknown_key = self.is_key && name == "uncastable";
        let usual = if self.required || is_unknown_key { Instead::Reject } else { Instead::Null };
        let Some(property) = property else { return usual };
        let said = match property.value {
            None => Some(Instead::Null),
            Some(node) => match (node.as_text(), node.kind()) {
                (Some("reject"), _) => Some(Instead::Reject),
                (Some("null"), _) => Some(Instead::Null),
                (_, "a mapping") => self.default(node, mistakes),
                _ => {
                    let said = format!("`{name}` must be `reject`, `null` or `{{default: …}}`");
                    mistakes.add(node.place(), said);
                    None
                }
            },
        };
        if said == Some(Instead::Null) && (self.required || is_unknown_key) {
            let place = property.value.map_or(property.place, |node| node.place());
            let never = if self.required {
                "a required column is never NULL"
            } else {
                "a key that cannot be read is never NULL"
            };
            mistakes.add(place, format!("{never}: `{name}` must be `reject` or a default"));
        }
        said.unwrap_or(usual)
    }

    fn default(&self, node: Node<'_, '_>, mistakes: &mut Mistakes) -> Option<Instead> {
        let map = node.map(mistakes)?;
        let value = map.need("default", mistakes);
        map.end(mistakes);
        Some(Instead::Value(value_of(&value?, self.cast?, mistakes)?))
    }
}

/// A default must satisfy the column's rules, and no rule may make a required column NULL.
fn check_values(column: &Column, required: bool, place: Place, mistakes: &mut Mistakes) {
    for instead in [column.absent, column.empty, column.uncastable] {
        let Instead::Value(value) = instead else { continue };
        for rule in column.rules.iter().filter(|rule| rule.broken(value).is_some()) {
            mistakes.add(place, format!("the default {value} of `{}` breaks its rule `{}`", column.name, rule.name));
        }
    }
    for rule in column.rules.iter().filter(|rule| required && rule.otherwise == Otherwise::Null) {
        let said = format!("`{}` is required: its rule `{}` cannot make it NULL", column.name, rule.name);
        mistakes.add(place, said);
    }
}
