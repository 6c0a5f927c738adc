//! The invariants O1 to O5 of the design, asked of a world that has settled.

use std::collections::BTreeMap;
use std::fmt::Debug;

use freshet_processors::refresh::MetricsSettings;
use freshet_sinks::outputs::{FileRef, Manifest, Store};
use sqlx::AssertSqlSafe;

use super::formulas::{self, Derived, Tables};
use super::plain::{self, File, Loaded, SPECS, Spec};
use super::topic::Record;
use super::{World, files};

/// Logs every move of a bookmark and every row received, with the transaction that did it.
const WATCH: &str = "
    CREATE SCHEMA test;
    LOCK TABLE pipeline.bookmarks, pipeline.progress IN SHARE ROW EXCLUSIVE MODE;
    CREATE TABLE test.moves (ord bigint GENERATED ALWAYS AS IDENTITY, xid xid8 DEFAULT pg_current_xact_id(),
        domain text, partition int, stream_id uuid, before bigint, after bigint);
    CREATE TABLE test.received (xid xid8 DEFAULT pg_current_xact_id(), domain text, partition int, n bigint);
    CREATE FUNCTION test.length(r int8multirange) RETURNS bigint LANGUAGE sql IMMUTABLE AS
        'SELECT coalesce(sum(upper(one) - lower(one)), 0)::bigint FROM unnest(r) AS one';
    CREATE FUNCTION test.moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO test.moves (domain, partition, stream_id, before, after)
            VALUES (NEW.domain, NEW.partition, NEW.stream_id, NULL, NEW.next_offset);
        ELSIF (NEW.next_offset, NEW.stream_id) IS DISTINCT FROM (OLD.next_offset, OLD.stream_id) THEN
            INSERT INTO test.moves (domain, partition, stream_id, before, after)
            VALUES (NEW.domain, NEW.partition, NEW.stream_id, OLD.next_offset, NEW.next_offset);
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION test.got() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
        n := test.length(NEW.received) + NEW.duplicate;
        IF TG_OP = 'UPDATE' THEN n := n - test.length(OLD.received) - OLD.duplicate; END IF;
        INSERT INTO test.received (domain, partition, n) VALUES (NEW.domain, NEW.partition, n);
        RETURN NULL;
    END $$;
    CREATE FUNCTION test.passed() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
        n := NEW.rows;
        IF TG_OP = 'UPDATE' THEN n := n - OLD.rows; END IF;
        INSERT INTO test.received (domain, partition, n) VALUES (NEW.domain, NEW.partition, n);
        RETURN NULL;
    END $$;
    CREATE TRIGGER test_passed AFTER INSERT OR UPDATE ON pipeline.passed_over
        FOR EACH ROW EXECUTE FUNCTION test.passed();
    CREATE TRIGGER test_moved AFTER INSERT OR UPDATE ON pipeline.bookmarks
        FOR EACH ROW EXECUTE FUNCTION test.moved();
    CREATE TRIGGER test_got AFTER INSERT OR UPDATE ON pipeline.progress
        FOR EACH ROW EXECUTE FUNCTION test.got();
    INSERT INTO test.moves (domain, partition, stream_id, after)
        SELECT domain, partition, stream_id, next_offset FROM pipeline.bookmarks;";

/// Installs what oracle O3 reads, once a database.
pub(crate) async fn watch(world: &World) {
    let there: bool = world.query("SELECT to_regclass('test.moves') IS NOT NULL").await;
    if !there {
        world.execute(WATCH).await;
    }
}

/// Compares two maps and names a few entries that differ.
pub(crate) fn assert_same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) {
    let mut differences = Vec::new();
    for (key, value) in found {
        match expected.get(key) {
            Some(wanted) if wanted == value => {}
            Some(wanted) => differences.push(format!("{key:?}:\n    found    {value:?}\n    expected {wanted:?}")),
            None => differences.push(format!("{key:?}: found {value:?}, expected none")),
        }
    }
    for (key, wanted) in expected.iter().filter(|(key, _)| !found.contains_key(key)) {
        differences.push(format!("{key:?}: found none, expected {wanted:?}"));
    }
    let shown = differences.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(differences.is_empty(), "{what}: {} differences\n  {shown}", differences.len());
}

impl World {
    /// All oracles.
    pub(crate) async fn all_hold(&self) -> Loaded {
        self.all_hold_but(|_, _| false).await
    }

    /// All oracles, where a constraint of the database refuses some rows.
    pub(crate) async fn all_hold_but(&self, refused: impl Fn(&str, &[String]) -> bool) -> Loaded {
        let loaded = self.tables_are_a_batch_load(refused).await;
        self.every_row_is_accounted_for(&loaded).await;
        self.bookmarks_tile().await;
        self.outputs_follow_the_tables().await;
        loaded
    }

    /// O1 and O5: every object is final, and the rows of an applied one are all received, once, and each
    /// applied, stale or rejected.
    pub(crate) async fn every_row_is_accounted_for(&self, loaded: &Loaded) {
        for object in self.objects().await {
            let final_state = matches!(object.state.as_str(), "applied" | "rejected" | "superseded");
            assert!(final_state, "O5: {object:?}");
            let counted: (i64, i64, i64, i64) = sqlx::query_as(
                "SELECT coalesce(sum(test.length(received)), 0)::bigint, coalesce(sum(applied), 0)::bigint,
                    coalesce(sum(stale), 0)::bigint, coalesce(sum(rejected), 0)::bigint
                 FROM pipeline.progress WHERE object = $1 AND generation = $2",
            )
            .bind(object.id)
            .bind(object.generation)
            .fetch_one(&self.services.pool)
            .await
            .expect("read the progress");
            let (received, applied, stale, rejected) = counted;
            if object.state != "applied" {
                assert_eq!(counted, (0, 0, 0, 0), "O1: rows of an object that was not published: {object:?}");
                continue;
            }
            let rows = loaded.rows[&object.id];
            assert_eq!(object.rows, Some(rows), "O1: rows counted of {object:?}");
            assert_eq!((received, applied + stale + rejected), (rows, rows), "O1: {counted:?} of {object:?}");
            let wanted = loaded.rejected.get(&object.id).copied().unwrap_or(0);
            assert_eq!(rejected, wanted, "O1: rejected rows of {object:?}");
        }
        let strays: i64 = self
            .query("SELECT count(*) FROM pipeline.progress p LEFT JOIN pipeline.objects o ON o.id = p.object WHERE o.id IS NULL")
            .await;
        assert_eq!(strays, 0, "O1: progress of unknown objects");
    }

    /// O2: tables, rejects and corrections are those of a plain batch load in the ledger's order.
    pub(crate) async fn tables_are_a_batch_load(&self, refused: impl Fn(&str, &[String]) -> bool) -> Loaded {
        let objects: Vec<_> = self.objects().await.into_iter().filter(|object| object.state == "applied").collect();
        let contents: Vec<Vec<u8>> = objects.iter().map(|object| self.content(object)).collect();
        let replacing: Vec<&str> = self.replacing_domains();
        let replaces = |domain: &str| replacing.contains(&domain);
        let file = |(object, content): (&super::Object, _)| File {
            domain: Spec::of(&object.domain).domain,
            object: object.id,
            src_ord: object.src_ord,
            is_replaced: replaces(&object.domain)
                && objects.iter().any(|other| other.key == object.key && other.src_ord > object.src_ord),
            content,
        };
        let loaded = plain::load(objects.iter().zip(contents.iter().map(Vec::as_slice)).map(file).collect(), refused);
        for spec in &SPECS {
            let expected = loaded.tables.get(spec.domain).cloned().unwrap_or_default();
            assert_same(&format!("O2: table {}", spec.table), &self.table(spec).await, &expected);
        }
        assert_same("O2: rejects", &self.rejects().await, &loaded.rejects);
        assert_same("O2: corrections", &self.corrections().await, &loaded.corrections);
        loaded
    }

    /// A table by key, the object that each row comes from last.
    pub(crate) async fn table(&self, spec: &Spec) -> BTreeMap<Vec<String>, Vec<String>> {
        let names: Vec<String> = spec.column_names().map(|name| format!("\"{name}\"::text")).collect();
        let sql = format!("SELECT ARRAY[{}, src_object::text] FROM {}", names.join(", "), spec.table);
        let rows: Vec<Vec<Option<String>>> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.services.pool).await.expect("read a table");
        let count = rows.len();
        let table: BTreeMap<_, _> = rows
            .into_iter()
            .map(|row| {
                let object = row[row.len() - 1].clone().expect("lineage");
                let mut cells: Vec<String> =
                    (0..row.len() - 1).map(|place| spec.canonical(place, row[place].as_deref())).collect();
                let key = spec.key_of(&cells);
                cells.push(object);
                (key, cells)
            })
            .collect();
        assert_eq!(table.len(), count, "two rows of {} have one key", spec.table);
        table
    }

    /// Rejects by (domain, column, rule).
    pub(crate) async fn rejects(&self) -> BTreeMap<(String, String, String), i64> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT domain, coalesce(\"column\", '∅'), rule, count(*) FROM pipeline.rejects GROUP BY 1, 2, 3",
        )
        .fetch_all(&self.services.pool)
        .await
        .expect("read the rejects");
        rows.into_iter().map(|(domain, column, rule, count)| ((domain, column, rule), count)).collect()
    }

    /// Corrections by (domain, `column:rule`).
    pub(crate) async fn corrections(&self) -> BTreeMap<(String, String), i64> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT p.domain, c.key, sum(c.value::bigint)::bigint
             FROM pipeline.progress p CROSS JOIN LATERAL jsonb_each_text(p.corrections) AS c GROUP BY 1, 2",
        )
        .fetch_all(&self.services.pool)
        .await
        .expect("read the corrections");
        rows.into_iter().map(|(domain, rule, count)| ((domain, rule), count)).collect()
    }

    /// O1, O2, O4 and O5, for a world whose bookmarks were moved by hand or whose topics hold records that are neither
    /// rows nor the first of their partition.
    pub(crate) async fn all_but_the_tiling_hold(&self) {
        self.settle().await;
        let loaded = self.tables_are_a_batch_load(|_, _| false).await;
        self.every_row_is_accounted_for(&loaded).await;
        self.outputs_follow_the_tables().await;
    }

    /// O3: the bookmark's moves tile, and the transaction of each move received exactly the rows of its records.
    pub(crate) async fn bookmarks_tile(&self) {
        type Moved = (String, i32, String, Option<i64>, i64, i64);
        // Moves and bookmarks of one moment: the record with which a stream begins may be read at any time.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        let mut moment = self.services.pool.begin_with(begin).await.expect("begin");
        let moves: Vec<Moved> = sqlx::query_as(
            "SELECT m.domain, m.partition, m.stream_id::text, m.before, m.after, coalesce((
                SELECT sum(r.n) FROM test.received r
                WHERE (r.xid, r.domain, r.partition) = (m.xid, m.domain, m.partition)), 0)::bigint
             FROM test.moves m ORDER BY m.ord",
        )
        .fetch_all(&mut *moment)
        .await
        .expect("read the moves");
        let now: Vec<(String, i32, String, i64)> =
            sqlx::query_as("SELECT domain, partition, stream_id::text, next_offset FROM pipeline.bookmarks")
                .fetch_all(&mut *moment)
                .await
                .expect("read the bookmarks");
        drop(moment);
        let logs = self.logs().await;
        let mut ends: BTreeMap<(String, i32, String), i64> = BTreeMap::new();
        for (domain, partition, stream, before, after, received) in moves {
            let shown = format!("O3: {domain} partition {partition}: {before:?} to {after}, {received} rows");
            let end = ends.insert((domain.clone(), partition, stream.clone()), after);
            assert_eq!(before, end, "{shown}");
            let Some(before) = before else { continue };
            let log = logs.get(&(domain, stream));
            let is_held = |offset| log.is_some_and(|log| log.contains_key(&(partition, offset)));
            let rows: Option<i64> = match (before..after).all(is_held) {
                true => log.map(|log| log.range((partition, before)..(partition, after)).map(|(_, it)| it.rows).sum()),
                false => None,
            };
            // Of a log that is gone no more is known than that a record has a row; record 0 is the stream's.
            let records = after - before - i64::from(before == 0);
            assert!(after > before && rows.map_or(received >= records, |rows| received == rows), "{shown}: {rows:?}");
        }
        let now =
            now.into_iter().map(|(domain, partition, stream, next)| ((domain, partition, stream), next)).collect();
        assert_same("O3: the bookmarks stand where the moves end", &now, &ends);
    }

    /// What the topics hold, by domain and stream.
    async fn logs(&self) -> BTreeMap<(String, String), BTreeMap<(i32, i64), Record>> {
        let streams: Vec<(String, String)> = sqlx::query_as("SELECT domain, stream_id::text FROM pipeline.streams")
            .fetch_all(&self.services.pool)
            .await
            .expect("read the streams");
        let mut logs = BTreeMap::new();
        for (domain, stream) in streams {
            let records = self.records(&domain).await;
            logs.insert((domain, stream), records);
        }
        logs
    }

    /// O4: what is published is the formulas over the tables, in every format, and publishing again changes no
    /// byte.
    pub(crate) async fn outputs_follow_the_tables(&self) -> Derived {
        let tables = Tables::read(&self.services.pool).await;
        let derived = tables.derive(MetricsSettings::default().allowed_lateness_days.into());
        let manifest = self.manifest().await;
        let expected: BTreeMap<_, _> =
            derived.iter().map(|(window, rows)| (window.clone(), rows.len() as u64)).collect();
        let found: BTreeMap<_, _> = entries(&manifest).into_iter().map(|(window, (rows, _))| (window, rows)).collect();
        assert_same("O4: windows and their rows", &found, &expected);
        let store = Store::new(self.services.s3.clone(), self.processed_bucket());
        for window in &manifest.windows {
            let key = (window.output.clone(), window.window_kind.clone(), window.window_start);
            let columns = formulas::columns(&window.output);
            for (format, file) in &window.files {
                let rows = files::read(format, &fetch(&store, file).await, &columns);
                let wanted = match format.as_str() {
                    "json" => files::as_json_says(&derived[&key], &columns),
                    _ => derived[&key].clone(),
                };
                assert_rows(&format!("O4: {key:?} as {format}"), &rows, &wanted);
            }
            assert_eq!(window.files.len(), 3, "O4: formats of {key:?}");
        }
        self.copies_are_whole(&manifest, &derived).await;
        self.publishing_again_changes_nothing(&manifest).await;
        derived
    }

    /// The whole-file copies hold the rows of all windows, in order.
    async fn copies_are_whole(&self, manifest: &Manifest, derived: &Derived) {
        for output in formulas::OUTPUTS {
            let columns = formulas::columns(output);
            let windows = manifest.windows.iter().filter(|window| window.output == output);
            let keys = windows.map(|window| (output.to_owned(), window.window_kind.clone(), window.window_start));
            let wanted: Vec<Vec<String>> = keys.flat_map(|key| derived[&key].clone()).collect();
            for format in ["csv", "json", "parquet"] {
                let bytes = self.output(&format!("metrics/{output}.{format}")).await;
                let rows = files::read(format, &bytes, &columns);
                let wanted = match format {
                    "json" => files::as_json_says(&wanted, &columns),
                    _ => wanted.clone(),
                };
                assert_rows(&format!("O4: the copy {output}.{format}"), &rows, &wanted);
            }
        }
    }

    async fn publishing_again_changes_nothing(&self, before: &Manifest) {
        // As if everything had changed.
        self.execute(
            "INSERT INTO pipeline.marks (domain, dates)
             SELECT d.domain, unnest(range_agg(daterange(d.date, d.date + 1)))
             FROM (SELECT 'climate', date FROM climate_data UNION SELECT 'health', date FROM health_data
                UNION SELECT 'hospital', date FROM hospital_data) AS d (domain, date)
             GROUP BY d.domain",
        )
        .await;
        self.publish().await;
        self.until("the marks are taken up", "SELECT NOT EXISTS (SELECT FROM pipeline.marks)").await;
        let after = self.manifest().await;
        assert_same("O4: publishing again", &entries(&after), &entries(before));
        assert_eq!(after.changed, before.changed, "O4: no output changed by publishing again");
    }

    /// The bytes of an object in the processed bucket.
    pub(crate) async fn output(&self, key: &str) -> Vec<u8> {
        let request = self.services.s3.get_object().bucket(self.processed_bucket()).key(key);
        let answer = request.send().await.unwrap_or_else(|error| panic!("read {key}: {error:?}"));
        answer.body.collect().await.expect("read the body").to_vec()
    }
}

/// What a manifest says of each window: rows, and the files by format.
pub(crate) type Entries = BTreeMap<(String, String, chrono::NaiveDate), (u64, BTreeMap<String, FileRef>)>;

pub(crate) fn entries(manifest: &Manifest) -> Entries {
    let entry = |window: &freshet_sinks::outputs::WindowFiles| {
        let key = (window.output.clone(), window.window_kind.clone(), window.window_start);
        (key, (window.rows, window.files.clone()))
    };
    manifest.windows.iter().map(entry).collect()
}

/// The windows whose files are not the same in both.
pub(crate) fn changed(before: &Entries, after: &Entries) -> Vec<(String, String, String)> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = keys.into_iter().filter(|key| before.get(key) != after.get(key));
    differ.map(|(output, kind, start)| (output.clone(), kind.clone(), start.to_string())).collect()
}

fn assert_rows(what: &str, found: &[Vec<String>], expected: &[Vec<String>]) {
    let numbered = |rows: &[Vec<String>]| rows.iter().cloned().enumerate().collect::<BTreeMap<_, _>>();
    assert_same(what, &numbered(found), &numbered(expected));
}

/// The bytes of a data file, checked against its hash.
async fn fetch(store: &Store, file: &FileRef) -> Vec<u8> {
    let spooled = store.fetch(file).await.expect("read a data file");
    let mut bytes = Vec::new();
    spooled.read().expect("open").copy(0, spooled.len(), &mut bytes).expect("read");
    assert_eq!(bytes.len() as u64, file.bytes);
    bytes
}
