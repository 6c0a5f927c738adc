use std::collections::BTreeMap;

use freshet_topics::message::packed::Pack;
use freshet_topics::{Cast, DOMAINS, Provenance};

use super::*;
use crate::frame::{FrameLimits, Framer};

/// Reads a file of a header and rows.
fn read(domain: &'static Domain, text: &str) -> Result<(Header, Vec<RawRow<'static>>), HeaderError> {
    let text = format!("{text}\n");
    let mut rest = text.as_bytes();
    let mut framer = Framer::new(FrameLimits::default(), domain.delimiter);
    let header = match framer.next(&mut rest).expect("a header that frames") {
        Some(record) => Header::read(domain, freshet_topics::domains::all(), &record)?,
        None => return Err(HeaderError::NoHeader),
    };
    let mut rows = Vec::new();
    while let Some(record) = framer.next(&mut rest).expect("a row that frames") {
        let row = header.raw_row(&record);
        let partition_cell = &row.cells[domain.index_of(domain.partition_by)];
        match (header.partition_cell(&record), partition_cell) {
            (Some(key), Cell::Text(text)) => assert_eq!(key, text),
            (None, Cell::Absent | Cell::Missing) => {}
            other => panic!("{other:?}"),
        }
        assert_packed_alike(&header, &record, &row);
        rows.push(RawRow { cells: row.cells.into_iter().map(owned).collect(), ..nothing() });
        let new_cells = row.new_cells.into_iter();
        rows.last_mut().expect("just pushed").new_cells =
            new_cells.map(|(name, text)| (Cow::Owned(name.into_owned()), Cow::Owned(text.into_owned()))).collect();
        rows.last_mut().expect("just pushed").extra =
            row.extra.into_iter().map(|text| Cow::Owned(text.into_owned())).collect();
    }
    Ok((header, rows))
}

/// A row is packed without becoming a [`RawRow`] first, and the result is the same.
fn assert_packed_alike(header: &Header, record: &Record<'_>, row: &RawRow<'_>) {
    let (object, generation, row_number, line, src_ord, seq, parser, partitions) = (1, 1, 2, 3, 4, 5, 2, 4);
    let nonce = uuid::Uuid::nil();
    let origin = Provenance { object, generation, row: row_number, line, src_ord, seq, parser, nonce, partitions };
    for overtaken in [0, 3] {
        let (mut written, mut pushed) = (Pack::default(), Pack::default());
        header.write(record, overtaken, written.line(&origin));
        pushed.push(&origin, &RawRow { overtaken, ..row.clone() });
        assert_eq!(String::from_utf8_lossy(written.value()), String::from_utf8_lossy(pushed.value()));
    }
}

#[test]
fn a_row_is_packed_as_it_stands_whatever_is_odd_in_it() {
    let keeping: &'static Domain = Box::leak(Box::new(Domain { on_new_column: NewColumn::Keep, ..*domain("health") }));
    let rows = "7,2025-01-01,\"a \"\"b\"\"\",5\n8\n9,2025-01-02,,,beyond,\n\"10\"x,2025\n11,2025-01-03,x,4,,";
    let (header, rows) = read(keeping, &format!("location_id,date,remark,dengue_cases\n{rows}")).expect("read");
    assert_eq!(rows.len(), 5);
    assert_eq!(header.columns(keeping), "location_id,date,dengue_cases");
}

fn nothing() -> RawRow<'static> {
    RawRow { cells: vec![], extra: vec![], new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 }
}

fn owned(cell: Cell<'_>) -> Cell<'static> {
    match cell {
        Cell::Absent => Cell::Absent,
        Cell::Missing => Cell::Missing,
        Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
    }
}

fn text(text: &str) -> Cell<'static> {
    Cell::Text(Cow::Owned(text.to_owned()))
}

fn domain(name: &str) -> &'static Domain {
    DOMAINS.iter().find(|domain| domain.name == name).expect("a domain of the registry")
}

#[test]
fn every_order_case_and_alias_gives_the_same_row_in_every_domain() {
    for domain in DOMAINS {
        let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
        let cells: Vec<String> = (0..names.len()).map(|index| format!("cell {index}")).collect();
        let aliased: Vec<&str> =
            domain.columns.iter().map(|column| *column.aliases.last().unwrap_or(&column.name)).collect();
        let backwards = |of: &[&str]| of.iter().rev().copied().collect::<Vec<_>>().join(",");
        let cells_backwards = cells.iter().rev().cloned().collect::<Vec<_>>().join(",");
        for file in [
            format!("{}\n{}", names.join(","), cells.join(",")),
            format!("{}\n{}", names.join(" ,\t").to_uppercase(), cells.join(",")),
            format!("\u{feff}\"{}\"\n{}", aliased.join("\",\""), cells.join(",")),
            format!("{}\n{cells_backwards}", backwards(&names)),
            format!("{}\n{cells_backwards}", backwards(&aliased)),
        ] {
            let (header, rows) = read(domain, &file).expect("a header of the domain");
            let expected: Vec<Cell> = cells.iter().map(|cell| text(cell)).collect();
            assert_eq!(rows, [RawRow { cells: expected, ..nothing() }], "{file}");
            assert!(header.ignored_columns().is_empty());
        }
    }
}

#[test]
fn a_column_may_be_absent_unless_every_file_must_have_it() {
    for domain in DOMAINS {
        for (index, column) in domain.columns.iter().enumerate() {
            let others: Vec<&str> =
                domain.columns.iter().map(|other| other.name).filter(|name| *name != column.name).collect();
            match read(domain, &format!("{}\n1", others.join(","))) {
                Ok((_, rows)) => {
                    assert_ne!(column.absent, Instead::Reject, "{}.{}", domain.name, column.name);
                    assert_eq!(rows[0].cells[index], Cell::Absent);
                }
                Err(error) => {
                    assert_eq!(column.absent, Instead::Reject, "{error}");
                    let said = error.to_string();
                    assert!(said.contains(&format!("no column `{}`", column.name)), "{said}");
                    assert!(others.iter().all(|name| said.contains(name)) && said.contains(domain.name), "{said}");
                }
            }
        }
    }
}

#[test]
fn two_columns_that_are_the_same_one_reject_the_file() {
    for domain in DOMAINS {
        for column in domain.columns {
            let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
            let error = read(domain, &format!("{}, {} ", names.join(","), column.name.to_uppercase()))
                .expect_err("the same name twice");
            let said = error.to_string();
            let second = format!("{} (`{}`)", names.len() + 1, column.name.to_uppercase());
            assert!(said.contains(&second) && said.contains("both"), "{said}");
            // If the canonical name is there too, an alias is just another column.
            for alias in column.aliases {
                let (header, _) = read(domain, &format!("{alias},{}", names.join(","))).expect("a clear header");
                assert_eq!(header.ignored_columns(), [*alias]);
            }
        }
    }
    let error = read(domain("locations"), "LocationID,name,location_id").expect_err("two aliases");
    assert_eq!(error.to_string(), "header: columns 1 (`LocationID`) and 3 (`location_id`) are both `id`; remove one");
    read(domain("locations"), "id,name,note,note").expect("extra columns may repeat");
}

#[test]
fn a_heading_that_may_be_two_columns_rejects_the_file() {
    let mut columns = domain("health").columns.to_vec();
    columns.extend(["icubeds", "icu_beds"].map(|name| Column::optional(name, Cast::Int)));
    let twins: &'static Domain = Box::leak(Box::new(Domain { columns: columns.leak(), ..*domain("health") }));
    assert_eq!(
        said(twins, "location_id,date,ICU Beds"),
        "header: column 3 (`ICU Beds`) may be `icubeds` or `icu_beds`: spell it as one of them"
    );
    let (_, rows) = read(twins, "location_id,date,ICU_Beds,ICUbeds\n1,2025-09-05,7,8").expect("each by its name");
    let cell = |name: &str| rows[0].cells[twins.index_of(name)].clone();
    assert_eq!((cell("icu_beds"), cell("icubeds")), (text("7"), text("8")));
}

#[test]
fn a_contract_may_reject_files_with_new_columns() {
    let strict = Domain { on_new_column: NewColumn::Reject, ..*domain("locations") };
    let strict: &'static Domain = Box::leak(Box::new(strict));
    read(strict, "id,name,District Type").expect_err("a new column");
    let said = read(strict, "id,note,name,\"x\ty\"").expect_err("new columns").to_string();
    assert_eq!(
        said,
        "header: `note`, `x\\ty` are no column of locations, whose contract rejects files with new columns: remove them \
         from the file, or declare them in the contract"
    );
    read(strict, "location_id,name,area").expect("no new column");
}

#[test]
fn a_contract_may_keep_the_cells_of_new_columns() {
    let keeping = Domain { on_new_column: NewColumn::Keep, ..*domain("locations") };
    let keeping: &'static Domain = Box::leak(Box::new(keeping));
    let file = "note,id,name,,note\nopen,1,Goa,x,late\n ,2,Assam,\n";
    let (header, rows) = read(keeping, file).expect("a header");
    assert_eq!(header.ignored_columns(), ["note", "", "note"]);
    let kept = |row: &RawRow<'_>| {
        let cells = row.new_cells.iter().map(|(name, text)| format!("{name}={text}"));
        cells.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(kept(&rows[0]), "column 4=x, note=open, note (column 5)=late");
    assert_eq!(kept(&rows[1]), "");
    let ignoring = Domain { on_new_column: NewColumn::Ignore, ..*domain("locations") };
    let (_, rows) = read(Box::leak(Box::new(ignoring)), file).expect("a header");
    assert_eq!(kept(&rows[0]), "");
}

#[test]
fn short_and_long_rows_and_extra_columns_are_told_apart() {
    let (header, rows) = read(
        domain("locations"),
        "note,id,name,,population\n,1,Goa,,5\n,2\n,3,Assam,,7,more,\n,4,\"\",,\" 8\"\n,5,Bihar,,6,, \n",
    )
    .expect("a header");
    assert_eq!(header.ignored_columns(), ["note", ""]);
    let absent = || Cell::Absent;
    let row = |id: &str, name: Cell<'static>, population: Cell<'static>, extra: &[&'static str]| RawRow {
        cells: vec![text(id), name, absent(), population, absent()],
        extra: extra.iter().map(|text| Cow::Borrowed(*text)).collect(),
        ..nothing()
    };
    assert_eq!(
        rows,
        [
            row("1", text("Goa"), text("5"), &[]),
            row("2", Cell::Missing, Cell::Missing, &[]),
            row("3", text("Assam"), text("7"), &["more", ""]),
            row("4", text(""), text(" 8"), &[]),
            row("5", text("Bihar"), text("6"), &[]),
        ]
    );
}

#[test]
fn what_was_found_is_said_within_bounds() {
    let climate = domain("climate");
    assert_eq!(read(climate, "\n \n").expect_err("empty"), HeaderError::NoHeader);
    assert_eq!(
        read(climate, "location;date;\"tempe\u{7}rature\"").expect_err("no column").to_string(),
        "header: no column `location_id`, `date`, `temperature`, which climate files must have; \
         found: `location;date;\"tempe\\u{7}rature\"`"
    );
    let wide = vec!["n".repeat(500); 500].join(",");
    let said = read(climate, &wide).expect_err("wide").to_string();
    assert!(said.contains("and 470 more") && said.len() < 2_000, "{said}");
}

/// The error for a header that is refused.
fn said(domain: &'static Domain, header: &str) -> String {
    read(domain, header).expect_err(header).to_string()
}

#[test]
fn headings_match_whatever_their_case_and_what_parts_their_words() {
    let health = domain("health");
    for header in [
        "Location ID,Date,Dengue Cases",
        "LOCATION-ID,DATE,dengue.cases",
        "\u{feff}\u{feff}location_id\u{a0} ,\u{200b}date,dengue_cases\u{a0}",
        "location\u{a0}id,date,Dengue - Cases",
    ] {
        let (header, rows) = read(health, &format!("{header}\n1,2025-09-05,7")).expect(header);
        assert_eq!(rows[0].cells[..3], [text("1"), text("2025-09-05"), text("7")]);
        assert!(header.ignored_columns().is_empty());
    }
}

#[test]
fn a_slip_in_a_heading_rejects_the_file_and_is_named() {
    let health = domain("health");
    assert_eq!(
        said(health, "location_id,date,dengue_case,malaria_cases"),
        "header: `dengue_case` is not a column: did you mean `dengue_cases`?"
    );
    let all = said(health, "location_id,date,Dengue,Malaria Cases,heat-stroke,diarrhoea_cases,is_projected");
    for (heading, column) in
        [("Dengue", "dengue_cases"), ("heat-stroke", "heatstroke_cases"), ("diarrhoea_cases", "diarrhea_cases")]
    {
        assert!(all.contains(&format!("`{heading}` is not a column: did you mean `{column}`?")), "{all}");
    }
    let required = said(health, "locaton_id,date,dengue_cases");
    assert!(required.contains("no column `location_id`") && required.contains("`locaton_id` is not"), "{required}");
    assert_eq!(
        said(health, "location_id,date,dengue\u{a0}case,malaria_cases"),
        "header: `dengue\\u{a0}case` is not a column: did you mean `dengue_cases`?"
    );
    // A heading is a new column if it is near a column that the file has, or near none.
    for header in
        ["location_id,date,dengue_cases,dengue_case", "location_id,date,dengue_cases,dengue_deaths,note,Remarks"]
    {
        read(health, header).expect(header);
    }
    let lenient = Domain { on_near_miss: NearMiss::Ignore, ..*health };
    let (header, _) =
        read(Box::leak(Box::new(lenient)), "location_id,date,dengue_case,malaria_cases").expect("lenient");
    assert_eq!(header.ignored_columns(), ["dengue_case"]);
}

#[test]
fn a_file_without_a_measure_is_rejected() {
    let none = said(domain("health"), "location_id,date,is_projected,remarks");
    assert_eq!(
        none,
        "header: no column of health besides its key, so nothing would be loaded; \
         found: `location_id`, `date`, `is_projected`, `remarks`"
    );
    let keys_alone =
        Domain { columns: &domain("health").columns[..2], key: &["location_id", "date"], ..*domain("health") };
    read(Box::leak(Box::new(keys_alone)), "location_id,date,remarks").expect("a domain of keys alone");
}

#[test]
fn what_the_file_is_instead_is_said() {
    let hospital = said(domain("health"), "location_id,date,total_beds,available_beds,doctors");
    assert_eq!(hospital, "header: these are columns of hospital, not of health: drop the file under `hospital/`");
    for (sign, name) in [(";", "semicolons"), ("\t", "tabs"), ("|", "bars (`|`)")] {
        let header = ["location_id", "date", "dengue_cases"].join(sign);
        let found = said(domain("health"), &header);
        assert!(found.contains(&format!("separated by {name}, not by commas")), "{found}");
    }
    for header in ["sep=;\nlocation_id;date;dengue_cases", "\nSEP=,\nlocation_id,date,dengue_cases"] {
        let found = said(domain("health"), header);
        assert!(found.contains("is only for Excel: remove the line"), "{found}");
    }
    let parted = Domain { delimiter: b';', ..*domain("health") };
    let parted: &'static Domain = Box::leak(Box::new(parted));
    read(parted, "location_id;date;dengue_cases").expect("as the contract says");
    assert!(said(parted, "location_id,date,dengue_cases").contains("separated by commas, not by semicolons"));
}

#[test]
fn commas_behind_the_last_heading_are_no_columns() {
    let (header, rows) =
        read(domain("health"), "location_id,date,dengue_cases,,\n1,2025-09-05,7,,\n").expect("a header");
    assert!(header.ignored_columns().is_empty());
    assert!(rows[0].extra.is_empty() && rows[0].new_cells.is_empty());
}

#[test]
fn the_notes_of_exported_rejects_are_no_columns() {
    // A domain that keeps new columns, and one that refuses them.
    let keeping = domain("health");
    let refusing: &'static Domain = Box::leak(Box::new(Domain { on_new_column: NewColumn::Reject, ..*keeping }));
    for domain in [keeping, refusing] {
        let file = "location_id,date,_rejected_rule,dengue_cases,_rejected_line\n1,2025-09-05,uncastable,7,12\n";
        let (header, rows) = read(domain, file).expect("a header");
        assert!(header.ignored_columns().is_empty(), "{:?}", header.ignored_columns());
        assert_eq!(rows[0].cells[domain.index_of("dengue_cases")], text("7"));
        assert!(rows[0].extra.is_empty() && rows[0].new_cells.is_empty(), "{:?}", rows[0].new_cells);
    }
}
