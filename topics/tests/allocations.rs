//! That an ordinary row costs no allocation on its way from a message to the columns of its batch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use freshet_topics::cells::Cells;
use freshet_topics::message::push_rows;
use freshet_topics::{DOMAINS, Domain, NewColumn, Pipeline, Provenance, judge};
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

/// How often memory is asked for while so many messages are read and judged.
fn allocations(domain: &'static Domain, value: &[u8], rows: usize) -> usize {
    let origin = Provenance {
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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut cells = Cells::of(domain);
    for _ in 0..rows {
        push_rows(domain, origin, value, &mut cells, |_, _| {});
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
        let is_ordinary = |row: &freshet_topics::RawRow<'_>| {
            let judged = judge::row(domain, row);
            judged.refusals.is_empty() && judged.corrections.is_empty()
        };
        for mut row in rows.filter(is_ordinary).take(2) {
            for domain in [domain, keeping] {
                let mut value = Vec::new();
                row.encode(domain, &mut value);
                let (few, many) = (allocations(domain, &value, 100), allocations(domain, &value, 6_400));
                // 64 times as many rows: each of the growing lists doubles six times more.
                let lists = 2 * domain.columns.len() + 10;
                assert!(many <= few + 6 * lists, "{}: {few} for 100 rows, {many} for 6,400", domain.name);
                row.new_cells.insert("note".into(), "open".into());
                tried += 1;
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}
