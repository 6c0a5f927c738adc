//! That an ordinary row costs no allocation on its way from a message to the columns of its batch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use freshet_topics::cells::Cells;
use freshet_topics::message::packed::{Head, Pack};
use freshet_topics::message::push_rows;
use freshet_topics::{Cell, DOMAINS, Domain, NewColumn, Pipeline, Provenance, RawRow, judge};
use uuid::Uuid;

/// Counts what the system allocates.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FIRST: Provenance = Provenance {
    object: 1,
    generation: 1,
    row: 0,
    line: 2,
    src_ord: 1,
    seq: 0,
    parser: 1,
    nonce: Uuid::nil(),
    partitions: 4,
};

/// Rows in a packed message.
const PACKED: usize = 50;

/// A message that has a row alone.
fn alone(domain: &Domain, row: &RawRow<'_>) -> (Head, Bytes) {
    let mut value = Vec::new();
    row.encode(domain, &mut value);
    (Head { first: FIRST, packed: None }, shared(&value))
}

/// A message that has a row many times over.
fn packed(domain: &Domain, row: &RawRow<'_>) -> (Head, Bytes) {
    let present = domain.columns.iter().zip(&row.cells).filter(|(_, cell)| **cell != Cell::Absent);
    let columns: Vec<&str> = present.map(|(column, _)| column.name).collect();
    let mut pack = Pack::default();
    for row_number in (0..).take(PACKED) {
        pack.push(&Provenance { row: row_number, seq: row_number, ..FIRST }, row);
    }
    let headers = pack.headers(&columns.join(",")).expect("it has rows");
    (Head::from_headers(Some(&headers)).expect("a head"), shared(pack.value()))
}

/// Bytes that are shared already, as they come out of the consumer's.
fn shared(value: &[u8]) -> Bytes {
    let value = Bytes::copy_from_slice(value);
    drop(value.clone());
    value
}

/// How often memory is asked for while a message is read and judged so many times.
fn allocations(domain: &'static Domain, (head, value): &(Head, Bytes), messages: usize) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut cells = Cells::of(domain);
    for _ in 0..messages {
        push_rows(domain, head, value, &mut cells, |_, raw| drop(raw)).expect("rows");
    }
    let judged = judge::columns(domain, &cells);
    assert!(judged.refusals.is_empty() && judged.corrections.is_empty(), "ordinary rows");
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test alone, so that nothing else allocates meanwhile.
#[test]
fn ordinary_rows_cost_allocations_a_batch_and_none_a_row() {
    let mut tried = 0;
    for domain in DOMAINS {
        let keeping: &'static Domain =
            Box::leak(Box::new(Domain { on_new_column: NewColumn::Keep, keeps_corrections: true, ..**domain }));
        let examples = Pipeline::shipped().examples.iter().find(|examples| examples.domain == *domain);
        let examples = examples.expect("tests of the domain");
        let rows = examples.rows.iter().map(|example| examples.raw_row(example));
        let is_ordinary = |row: &RawRow<'_>| {
            let judged = judge::row(domain, row);
            judged.refusals.is_empty() && judged.corrections.is_empty()
        };
        for mut row in rows.filter(is_ordinary).take(2) {
            for domain in [domain, keeping] {
                // 64 times as many rows: each of the growing lists doubles six times more.
                let doublings = 6 * (2 * domain.columns.len() + 10);
                let message = alone(domain, &row);
                let (few, many) = (allocations(domain, &message, 100), allocations(domain, &message, 6_400));
                assert!(many <= few + doublings, "{}: {few} for 100 rows, {many} for 6,400", domain.name);
                let message = packed(domain, &row);
                let (few, many) = (allocations(domain, &message, 2), allocations(domain, &message, 128));
                // One a message: where its columns are in the domain.
                assert!(many <= few + doublings + 126, "{}: {few} for 100 packed rows, {many} for 6,400", domain.name);
                row.new_cells.insert("note".into(), "open".into());
                tried += 1;
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}
