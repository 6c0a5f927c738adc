//! Properties that the standard does not have: `customProperties` of the vendor `freshet`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::words::for_people;
use crate::pipeline::mistake::{Mistakes, Place, did_you_mean};
use crate::pipeline::yaml::{Map, Node};

/// freshet's name among the vendors of custom properties.
pub(super) const VENDOR: &str = "freshet";

/// The custom properties of one element; remembers which ones were read.
#[derive(Debug)]
pub(super) struct Custom<'d, 't> {
    properties: Vec<Property<'d, 't>>,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Property<'d, 't> {
    name: &'d str,
    /// The position where it begins.
    pub(super) place: Place,
    /// Its value; `None` is null.
    pub(super) value: Option<Node<'d, 't>>,
}

impl<'d, 't> Custom<'d, 't> {
    /// The properties of a mapping. Those of other vendors are ignored.
    pub(super) fn of(map: &Map<'d, 't>, mistakes: &mut Mistakes) -> Self {
        let mut custom = Custom { properties: Vec::new(), asked: RefCell::default() };
        let Some(list) = map.get("customProperties") else { return custom };
        for item in list.list(mistakes) {
            let Some(property) = item.map(mistakes) else { continue };
            let name = property.need("property", mistakes).and_then(|name| name.text(mistakes));
            let vendor = property.get("vendor").map(|vendor| (vendor.place(), vendor.text(mistakes)));
            let found = name.map(|name| Property { name, place: property.place(), value: property.get("value") });
            for_people(&property, &["id", "description"]);
            property.end(mistakes);
            match (vendor, found) {
                (Some((_, Some(VENDOR))), Some(found)) => custom.add(found, mistakes),
                (Some((place, Some(vendor))), _) => {
                    let hint = did_you_mean(vendor, [VENDOR]);
                    if !hint.is_empty() {
                        mistakes.add(place, format!("unknown vendor `{vendor}`{hint}"));
                    }
                }
                (None, Some(found)) => {
                    let said = format!("`{}` has no vendor: write `vendor: {VENDOR}`, or another vendor", found.name);
                    mistakes.add(found.place, said);
                }
                _ => {}
            }
        }
        custom
    }

    fn add(&mut self, found: Property<'d, 't>, mistakes: &mut Mistakes) {
        if self.properties.iter().any(|other| other.name == found.name) {
            mistakes.add(found.place, format!("the property `{}` occurs twice", found.name));
            return;
        }
        self.properties.push(found);
    }

    /// The property with this name.
    pub(super) fn property(&self, name: &'static str) -> Option<Property<'d, 't>> {
        self.asked.borrow_mut().insert(name);
        self.properties.iter().find(|property| property.name == name).copied()
    }

    /// The value of the property with this name; null is a mistake.
    pub(super) fn value(&self, name: &'static str, mistakes: &mut Mistakes) -> Option<Node<'d, 't>> {
        let property = self.property(name)?;
        if property.value.is_none() {
            mistakes.add(property.place, format!("the property `{name}` has no value"));
        }
        property.value
    }

    /// Reports every property that was not read as a mistake.
    pub(super) fn end(self, mistakes: &mut Mistakes) {
        let asked = self.asked.into_inner();
        for property in &self.properties {
            if !asked.contains(property.name) {
                let known = asked.iter().copied().collect::<Vec<_>>().join(", ");
                let hint = did_you_mean(property.name, asked.iter().copied());
                let said = format!("unknown property `{}`{hint} (known here: {known})", property.name);
                mistakes.add(property.place, said);
            }
        }
    }
}
