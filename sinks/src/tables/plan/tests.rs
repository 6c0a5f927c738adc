use super::super::duplicates::Duplicates;
use super::super::found::{Index, Rows};
use super::super::views::View;
use super::types::shown;
use super::*;
use crate::apply::ids::Ids;
use crate::tables::found::FoundColumn;
use crate::tables::wanted::WantedColumn;

/// A domain with a key of two columns, a date and a text.
fn wanted() -> Wanted {
    let column = |name, type_name: &str, not_null| WantedColumn {
        name,
        type_name: type_name.to_owned(),
        not_null,
        comment: None,
    };
    Wanted {
        domain: "stock",
        table: "stock_data",
        comment: Some("What is there.".into()),
        has_surrogate_id: true,
        columns: vec![
            column("place", "int4", true),
            column("day", "date", true),
            column("pieces", "int4", false),
            column("note", "text", false),
        ],
        key: vec!["place", "day"],
        adds_columns: false,
        date: Some("day"),
        by_object: false,
    }
}

fn there(name: &str, type_name: &str) -> FoundColumn {
    let not_null = ["id", "place", "day"].contains(&name) || LINEAGE.iter().any(|(lineage, ..)| *lineage == name);
    let comment = wanted().comments().find(|(of, _)| *of == name).map(|(_, comment)| comment.to_owned());
    let (name, type_name, shown) = (name.to_owned(), type_name.to_owned(), shown(type_name).to_owned());
    FoundColumn { is_identity: name == "id", name, type_name, shown, not_null, comment, ..FoundColumn::default() }
}

fn index(columns: &[&str]) -> Index {
    let columns = columns.iter().map(|&column| column.to_owned()).collect();
    Index { columns, is_unique: true, is_constraint: true, nulls_not_distinct: true, ..Index::default() }
}

/// The table as setup creates it.
fn own() -> Found {
    let columns = wanted().columns.iter().map(|column| there(column.name, &column.type_name)).collect::<Vec<_>>();
    let lineage = LINEAGE.map(|(name, type_name, _)| there(name, type_name));
    Found {
        kind: "r".into(),
        owner: "freshet".into(),
        may_alter: true,
        comment: Some("What is there.".into()),
        columns: [vec![there("id", "int8")], columns, lineage.to_vec()].concat(),
        indexes: vec![
            Index { is_primary: true, ..index(&["id"]) },
            index(&["place", "day"]),
            Index { is_unique: false, ..index(&["day"]) },
        ],
        ..Found::default()
    }
}

/// The same without lineage, key and comments, and with an `id` from a serial.
fn foreign() -> Found {
    let mut found = own();
    found.columns.truncate(5);
    found.columns.iter_mut().for_each(|column| column.comment = None);
    found.indexes.truncate(1);
    found.columns[0] = FoundColumn {
        name: "id".into(),
        type_name: "int8".into(),
        not_null: true,
        default_value: Some("nextval('stock_data_id_seq'::regclass)".into()),
        sequence: Some("public.stock_data_id_seq".into()),
        ..FoundColumn::default()
    };
    found.rows = Rows { count: 7, duplicates: Duplicates { rows: 2, keys: 1, referred: vec![] }, ..Rows::default() };
    found
}

fn said(plan: &TablePlan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.said.as_str()).collect()
}

#[test]
fn a_table_that_is_not_there_is_made_and_one_that_is_as_declared_is_left_alone() {
    let made = plan("apart", &wanted(), None, &[]);
    assert_eq!(
        (made.what, said(&made)[0]),
        (What::Missing, "create the table: place, day, pieces, note, key (place, day), index on day")
    );
    assert_eq!(
        made.steps[0].sql,
        [
            "CREATE TABLE \"apart\".\"stock_data\" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
         \"place\" int4 NOT NULL, \"day\" date NOT NULL, \"pieces\" int4, \"note\" text, src_object int8 NOT NULL, \
         src_gen int4 NOT NULL, src_row int8 NOT NULL, src_ord int8 NOT NULL, value_ord int8 NOT NULL, \
         CONSTRAINT \"stock_data_key\" UNIQUE NULLS NOT DISTINCT (\"place\", \"day\")) WITH (fillfactor = 90)",
            "CREATE INDEX \"stock_data_date\" ON \"apart\".\"stock_data\" (\"day\")",
        ]
    );
    assert!(made.steps[1].sql[0].starts_with("COMMENT ON TABLE \"apart\".\"stock_data\" IS 'What is there.'"));
    let same = plan("apart", &wanted(), Some(&own()), &[]);
    assert_eq!((same.what, said(&same)), (What::Own, vec![]), "{same:?}");
}

#[test]
fn the_rows_of_an_object_are_indexed_as_long_as_an_overwrite_replaces_them() {
    let replacing = Wanted { by_object: true, ..wanted() };
    let made = plan("apart", &replacing, None, &[]);
    assert!(made.steps[0].said.ends_with("index on day and on src_object"), "{made:?}");
    let create = "CREATE INDEX \"stock_data_src_object\" ON \"apart\".\"stock_data\" (src_object)";
    assert_eq!(made.steps[0].sql[2], create);
    let with = |name: &str| {
        let mut found = own();
        found.indexes.push(Index { name: name.into(), is_unique: false, ..index(&["src_object"]) });
        found
    };
    let (add, drop) = (
        "add index stock_data_src_object on (src_object), for onOverwrite: replace",
        "drop index stock_data_src_object, which only onOverwrite: replace needs",
    );
    let cases = [
        (&replacing, own(), vec![add]),
        (&replacing, with("stock_data_src_object"), vec![]),
        (&replacing, with("somebodys"), vec![]),
        (&wanted(), with("stock_data_src_object"), vec![drop]),
        (&wanted(), with("somebodys"), vec![]),
    ];
    for (wanted, found, expected) in cases {
        let plan = plan("apart", wanted, Some(&found), &[]);
        assert_eq!(said(&plan), expected, "{found:?}");
        assert!(plan.blocked.is_empty() && plan.not_done.is_empty(), "{plan:?}");
    }
    let begins = plan("apart", &replacing, Some(&own()), &[]);
    assert_eq!(begins.steps[0].sql, [create]);
    let ends = plan("apart", &wanted(), Some(&with("stock_data_src_object")), &[]);
    assert_eq!(ends.steps[0].sql, ["DROP INDEX \"apart\".\"stock_data_src_object\""]);
}

#[test]
fn a_domain_that_has_an_id_of_its_own_is_keyed_by_it() {
    let mut wanted = wanted();
    (wanted.has_surrogate_id, wanted.key, wanted.date) = (false, vec!["id"], None);
    wanted.columns[0].name = "id";
    let made = plan("public", &wanted, None, &[]);
    assert!(made.steps[0].sql[0].contains("value_ord int8 NOT NULL, PRIMARY KEY (\"id\")) WITH"), "{made:?}");
}

#[test]
fn a_table_of_somebody_else_is_taken_over_line_by_line() {
    let plan = plan("public", &wanted(), Some(&foreign()), &[]);
    assert_eq!(plan.what, What::Foreign { rows: 7 });
    let lines = said(&plan);
    let expected = [
        "let column id number new rows (identity), after the greatest id, instead of by nextval",
        "add the lineage columns src_object, src_gen, src_row, src_ord, value_ord: 0 in existing rows (7 rows)",
        "move 2 rows to pipeline.taken_over_duplicates, because a row with a greater id has the same key (1 key)",
        "add constraint stock_data_key UNIQUE NULLS NOT DISTINCT (place, day)",
        "add index stock_data_date on (day)",
        "set the comments of id, src_object, src_gen, src_row, src_ord, value_ord",
        "mark all windows of its rows",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    assert_eq!(plan.steps[0].sql[1], "DROP SEQUENCE public.stock_data_id_seq");
    assert!(plan.blocked.is_empty() && plan.not_done.is_empty(), "{plan:?}");
}

#[test]
fn a_type_is_widened_where_nothing_is_lost_and_otherwise_left_with_a_word() {
    // Found, wanted, whose table; the expected text, and its list.
    let cases = [
        ("int4", "int8", "own", "step", "widen column pieces from integer to bigint"),
        ("int2", "int4", "foreign", "step", "widen column pieces from int2 to integer"),
        ("float4", "float8", "own", "step", "widen column pieces from float4 to double precision"),
        ("varchar", "text", "foreign", "step", "widen column pieces from varchar to text"),
        ("numeric(6,2)", "numeric(8,2)", "own", "step", "widen column pieces from numeric(6,2) to numeric(8,2)"),
        ("int4", "numeric(12,2)", "own", "step", "widen column pieces from integer to numeric(12,2)"),
        ("int4", "numeric(11,2)", "own", "not done", "column pieces stays integer but should be numeric(11,2)"),
        ("numeric(8,2)", "numeric(6,2)", "own", "kept", "column pieces is numeric(8,2), which can hold every"),
        ("int8", "int4", "foreign", "kept", "column pieces is bigint, which can hold every integer"),
        ("text", "int4", "own", "not done", "`freshet replay stock --into shadow --compare --swap`"),
        ("text", "int4", "foreign", "blocked", "column pieces is text and must be integer: alter it"),
    ];
    for (type_name, declared, whose, place, expected) in cases {
        let (mut wanted, mut found) = (wanted(), if whose == "own" { own() } else { foreign() });
        wanted.columns[2].type_name = declared.to_owned();
        found.columns[3] = there("pieces", type_name);
        let plan = plan("public", &wanted, Some(&found), &[]);
        let lines: Vec<String> = match place {
            "step" => said(&plan).iter().map(|&line| line.to_owned()).collect(),
            "kept" => plan.kept,
            "not done" => plan.not_done,
            _ => plan.blocked,
        };
        assert!(lines.iter().any(|line| line.contains(expected)), "{type_name} → {declared}, {whose}: {lines:?}");
    }
}

#[test]
fn columns_that_are_missing_come_and_those_that_are_not_declared_stay() {
    let mut found = own();
    found.columns.retain(|column| column.name != "note");
    found.columns.push(FoundColumn { not_null: true, ..there("theirs", "text") });
    found.columns.push(there("former", "int4"));
    found.foreign_keys.push(("stock_place".into(), "places".into()));
    let plan = plan("public", &wanted(), Some(&found), &["former".into(), "note".into()]);
    assert_eq!(
        said(&plan),
        ["add column note text", "allow NULL in column theirs: it is not declared, so new rows have no value for it",]
    );
    assert_eq!(plan.not_done.len(), 1, "{plan:?}");
    assert!(plan.not_done[0].starts_with("column former is no longer declared, and stays"), "{plan:?}");
    assert!(plan.kept[0].starts_with("foreign key stock_place stays"), "{plan:?}");
}

/// A column that setup made for a heading of the files.
fn added(name: &str, heading: &str) -> FoundColumn {
    let default_value = Some(format!("(extra ->> '{heading}'::text)"));
    FoundColumn { is_generated: true, default_value, ..there(name, "text") }
}

#[test]
fn a_heading_that_rows_have_kept_gets_a_column_once_and_within_bounds() {
    let mut found = own();
    found.columns.push(added("colour", "Colour"));
    found.new_headings =
        ["Colour", "Weight (kg)", "weight_kg", "NOTE", "Src_Row", "Extra", "—"].map(str::to_owned).to_vec();
    let plan = super::plan("public", &wanted(), Some(&found), &[]);
    assert_eq!(said(&plan), ["add column weight_kg text, with the values of the files' column \"Weight (kg)\""]);
    assert_eq!(
        plan.steps[0].sql[0],
        "ALTER TABLE \"public\".\"stock_data\" ADD COLUMN \"weight_kg\" text \
         GENERATED ALWAYS AS (extra ->> 'Weight (kg)'::text) STORED"
    );
    let stays = [
        "\"weight_kg\" stays in extra only: the table has a column weight_kg already",
        "\"Src_Row\" stays in extra only: the table has a column src_row already",
        "\"Extra\" stays in extra only: the table has a column extra already",
        "\"—\" stays in extra only: no column name can be derived from it",
    ];
    assert_eq!(plan.kept.iter().map(|it| it.trim_start_matches("the files' column ")).collect::<Vec<_>>(), stays);

    found.new_headings = (0..40).map(|number| format!("h{number}")).collect();
    let plan = super::plan("public", &wanted(), Some(&found), &[]);
    assert_eq!((plan.steps.len(), plan.kept.len()), (31, 9), "with the one that is there, 32");
    assert!(plan.kept[0].ends_with("at most 32 are added: declare it"), "{plan:?}");
}

#[test]
fn a_column_that_was_added_becomes_the_contracts_when_it_is_declared() {
    let mut found = own();
    found.columns[4] = added("note", "Note");
    found.columns[3] = added("pieces", "Pieces");
    let plan = plan("public", &wanted(), Some(&found), &[]);
    assert_eq!(
        said(&plan),
        [
            "recreate column pieces as int4: it is declared now",
            "turn column note into a stored column: it is declared now"
        ]
    );
    assert!(plan.kept[0].contains("until `freshet replay stock --from beginning` fills it"), "{plan:?}");
}

#[test]
fn a_column_that_is_not_required_any_more_may_be_null_and_none_is_forbidden_to_be() {
    let mut found = own();
    (found.columns[2].not_null, found.columns[4].not_null) = (false, true);
    let plan = plan("public", &wanted(), Some(&found), &[]);
    assert_eq!(said(&plan), ["allow NULL in column note: the declaration does not require it"]);
}

#[test]
fn a_table_that_its_owner_has_partitioned_is_as_good_as_a_plain_one() {
    let mut found = own();
    found.kind = "p".into();
    let plan = plan("public", &wanted(), Some(&found), &[]);
    assert_eq!((said(&plan).len(), plan.blocked.len()), (0, 0), "{plan:?}");
}

#[test]
fn what_setup_cannot_decide_blocks_all_of_it() {
    type Change = fn(&mut Found);
    let cases: [(Change, &str); 7] = [
        (|found| found.kind = "v".into(), "is not a plain table (pg_class.relkind is v)"),
        (|found| found.may_alter = false, "it belongs to freshet: run setup as freshet"),
        (|found| found.columns[0].type_name = "uuid".into(), "must be bigint: rename it"),
        (|found| found.rows.without_id = 4, "4 rows without an id"),
        (|found| found.columns.retain(|column| column.name != "place"), "column place is part of the key"),
        (
            |found| found.rows.duplicates.referred.push(("orders_stock".into(), "orders".into(), 5)),
            "5 rows of orders (orders_stock) refer to rows that would be removed",
        ),
        (
            |found| {
                found.columns[0].type_name = "int4".into();
                let odd = vec!["is materialised".into()];
                found.views.push(View { name: "v".into(), uses: vec!["id".into()], odd, ..View::default() });
            },
            "view v uses a column whose type changes (id), and is materialised",
        ),
    ];
    for (change, expected) in cases {
        let mut found = foreign();
        change(&mut found);
        let plan = plan("public", &wanted(), Some(&found), &[]);
        assert!(plan.blocked.iter().any(|said| said.contains(expected)), "{expected}: {plan:#?}");
    }
    // No row of one of freshet's own tables is set aside.
    let mut found = own();
    found.indexes.remove(1);
    found.rows.duplicates = Duplicates { rows: 2, keys: 1, referred: Vec::new() };
    let plan = plan("public", &wanted(), Some(&found), &[]);
    assert!(plan.blocked[0].contains("2 rows with the same key (place, day) as another row"), "{plan:?}");
}

#[test]
fn a_view_is_taken_away_first_and_made_again_after_the_columns_are_altered() {
    let mut found = foreign();
    found.columns[0].type_name = "int4".into();
    found.views.push(View {
        name: "numbers".into(),
        uses: vec!["id".into()],
        definition: "CREATE VIEW numbers AS SELECT 1".into(),
        restore: vec!["GRANT SELECT ON numbers TO api".into()],
        ..View::default()
    });
    let plan = plan("public", &wanted(), Some(&found), &[]);
    let at = |start: &str| said(&plan).iter().position(|line| line.starts_with(start)).expect(start);
    assert_eq!(plan.steps[0].sql, ["DROP VIEW numbers"]);
    assert!(at("widen column id") < at("recreate with the same definition: view numbers"), "{plan:#?}");
    let made = &plan.steps[at("recreate with")].sql;
    assert_eq!(made[..], ["CREATE VIEW numbers AS SELECT 1", "GRANT SELECT ON numbers TO api"]);
}

#[test]
fn a_key_that_is_declared_otherwise_takes_the_place_of_the_former_one() {
    let mut wanted = wanted();
    wanted.key.push("note");
    let changed = plan("public", &wanted, Some(&own()), &[]);
    assert_eq!(said(&changed), ["change constraint stock_data_key to UNIQUE NULLS NOT DISTINCT (place, day, note)"]);
    let expected = "ALTER TABLE \"public\".\"stock_data\" DROP CONSTRAINT IF EXISTS \"stock_data_key\", \
                    ADD CONSTRAINT \"stock_data_key\" UNIQUE NULLS NOT DISTINCT (\"place\", \"day\", \"note\")";
    assert_eq!(changed.steps[0].sql, [expected]);
}

/// The table as setup creates it, with the names of its indexes.
fn named() -> Found {
    let mut found = own();
    for (index, name) in found.indexes.iter_mut().zip(["stock_data_pkey", "stock_data_key", "stock_data_date"]) {
        index.name = name.into();
    }
    found
}

#[test]
fn a_former_key_that_would_refuse_rows_goes_even_if_somebody_has_an_index_for_the_new_one() {
    let mut found = named();
    found.indexes.push(Index { name: "theirs".into(), ..index(&["place", "note"]) });
    found.columns.iter_mut().for_each(|column| column.not_null |= column.name == "note");
    let mut wanted = wanted();
    wanted.columns[3].not_null = true;
    assert!(said(&plan("public", &wanted, Some(&found), &[])).is_empty());
    wanted.key = vec!["place", "note"];
    let changed = plan("public", &wanted, Some(&found), &[]);
    assert_eq!(said(&changed), ["drop constraint stock_data_key UNIQUE (place, day): the key is (place, note)"]);
    let expected = "ALTER TABLE \"public\".\"stock_data\" DROP CONSTRAINT IF EXISTS \"stock_data_key\"";
    assert_eq!(changed.steps[0].sql, [expected]);
}

#[test]
fn a_new_column_of_the_key_comes_into_an_empty_table_only() {
    let mut wanted = wanted();
    wanted.key.push("ward");
    wanted.columns.push(WantedColumn { name: "ward", type_name: "int4".into(), not_null: true, comment: None });
    let blocked = plan("public", &wanted, Some(&named()), &[]).blocked;
    assert!(
        blocked[0].contains("`freshet replay stock --into shadow --compare --swap` builds the table"),
        "{blocked:?}"
    );
    let empty = Found { is_empty: true, ..named() };
    let made = plan("shadow", &wanted, Some(&empty), &[]);
    let steps = [
        "add column ward integer NOT NULL",
        "change constraint stock_data_key to UNIQUE NULLS NOT DISTINCT (place, day, ward)",
    ];
    assert_eq!((said(&made), made.blocked.len()), (steps.to_vec(), 0), "{made:?}");
    let foreign = plan("public", &wanted, Some(&foreign()), &[]).blocked;
    assert!(foreign[0].contains("the table does not have it: add and fill it"), "{foreign:?}");
}

#[test]
fn a_shadow_is_made_otherwise_only_where_key_or_columns_are_declared_so() {
    let same = redeclared("shadow", &wanted(), &named(), &[]);
    assert!(
        same.is_nothing() && same.sql.is_empty() && same.blocked.is_empty() && !same.is_keyed_otherwise,
        "{same:?}"
    );
    assert_eq!(same.ids, Ids::OfKey);
    // Its owner has dropped an index: a shadow is like its table.
    let mut without = named();
    without.indexes.pop();
    assert!(redeclared("shadow", &wanted(), &without, &[]).is_nothing());

    let mut changed = wanted();
    (changed.columns[2].type_name, changed.columns[0].not_null) = ("bool".into(), false);
    changed.columns[3].name = "remark";
    let found = redeclared("shadow", &changed, &without, &["note".into(), "place".into()]);
    assert_eq!((found.added, found.retyped), (vec!["remark".to_owned()], vec!["pieces".to_owned()]));
    assert_eq!(
        (found.others, found.indexes),
        (vec!["place".to_owned(), "note".to_owned()], vec!["stock_data_date".to_owned()])
    );
    assert_eq!((found.ids, found.is_keyed_otherwise), (Ids::OfKey, false));
    let retype = "ALTER TABLE \"shadow\".\"stock_data\" ALTER COLUMN \"pieces\" DROP DEFAULT, \
                  ALTER COLUMN \"pieces\" TYPE bool USING NULL::bool";
    assert_eq!(found.sql, [retype, "ALTER TABLE \"shadow\".\"stock_data\" DROP COLUMN \"note\""]);
}

#[test]
fn a_shadow_keeps_ids_where_its_rows_are_found_by_the_key() {
    type Change = fn(&mut Wanted, &mut Found);
    let cases: [(&str, Change, Ids, bool); 9] = [
        ("as it was", |_, _| (), Ids::OfKey, false),
        ("wider", |wanted, _| wanted.columns[0].type_name = "int8".into(), Ids::OfKey, false),
        ("coarser", |wanted, _| wanted.key = vec!["place"], Ids::OfKey, true),
        ("coarser, by the date's index", |wanted, _| wanted.key = vec!["day"], Ids::OfKey, true),
        (
            "coarser, without an index",
            |wanted, found| {
                found.indexes.pop();
                wanted.key = vec!["day"];
            },
            Ids::Next,
            true,
        ),
        ("by a value that may change", |wanted, _| wanted.key = vec!["place", "note"], Ids::Next, true),
        ("of another type", |wanted, _| wanted.columns[0].type_name = "text".into(), Ids::Next, true),
        (
            "with a column that is new",
            |wanted, found| {
                found.columns.retain(|column| column.name != "place");
                wanted.key = vec!["place"];
            },
            Ids::Next,
            true,
        ),
        (
            "instead of an id of the domain's own",
            |wanted, found| {
                found.columns[0].is_identity = false;
                wanted.key = vec!["place"];
            },
            Ids::Unset,
            true,
        ),
    ];
    for (case, change, ids, is_keyed_otherwise) in cases {
        let (mut wanted, mut found) = (wanted(), named());
        change(&mut wanted, &mut found);
        let redeclared = redeclared("shadow", &wanted, &found, &[]);
        assert_eq!((redeclared.ids, redeclared.is_keyed_otherwise), (ids, is_keyed_otherwise), "{case}");
        assert!(redeclared.blocked.is_empty(), "{case}: {redeclared:?}");
    }
}

#[test]
fn a_former_key_that_setup_did_not_name_is_named_before_a_shadow_is_filled() {
    let mut found = named();
    found.indexes[1].name = "place_and_day".into();
    let of = |key: &[&'static str], found: &Found| {
        redeclared("shadow", &Wanted { key: key.to_vec(), ..wanted() }, found, &[]).blocked
    };
    let blocked = of(&["place", "note"], &found);
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(blocked[0].starts_with("unique index place_and_day on (place, day) would refuse rows"), "{blocked:?}");
    assert!(blocked[0].contains("stop the processors of stock, drop it"), "{blocked:?}");
    assert_eq!(of(&["place"], &found), [""; 0], "it refuses no row that the new key allows");
    assert_eq!(of(&["place", "note"], &named()), [""; 0], "it is known to be the key");
}

#[test]
fn indexes_of_others_that_are_in_the_way_of_another_key_are_named() {
    let wanted = Wanted { key: vec!["place", "note"], ..wanted() };
    let mut theirs = named();
    theirs.indexes[1].name = "place_and_day".into();
    let planned = plan("public", &wanted, Some(&theirs), &[]);
    let kept = "unique index place_and_day on (place, day) refuses rows that differ in the key";
    assert!(planned.kept.iter().any(|it| it.starts_with(kept)), "{planned:?}");
    // No constraint: setup cannot drop it as one, and cannot use its name.
    let mut plain = named();
    plain.indexes[1].is_constraint = false;
    assert_eq!(plain.former_key(&wanted), None);
    let blocked = plan("public", &wanted, Some(&plain), &[]).blocked;
    assert!(
        blocked.iter().any(|it| it.starts_with("index stock_data_key has the name that the key gets")),
        "{blocked:?}"
    );
}

/// While it is filled, processors with the former contract go on; after the swap they write to it until they are restarted.
#[test]
fn a_new_column_that_is_required_may_be_empty_in_a_shadow_unless_it_is_part_of_the_key() {
    let mut wanted = wanted();
    wanted.columns.push(WantedColumn { name: "ward", not_null: true, ..wanted.columns[0].clone() });
    let added = |wanted: &Wanted| {
        let mut empty = named();
        empty.is_empty = true;
        said(&plan("shadow", wanted, Some(&empty), &[])).join("; ")
    };
    assert!(
        added(&wanted).contains("add column ward integer") && !added(&wanted).contains("NOT NULL"),
        "{}",
        added(&wanted)
    );
    wanted.key.push("ward");
    assert!(added(&wanted).contains("add column ward integer NOT NULL"), "{}", added(&wanted));
}
