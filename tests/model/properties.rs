//! What holds at every moment, and what holds once nothing is left to do.

use freshet_sinks::apply::progress::Part;
use freshet_sinks::ledger::{Lost, Object, ObjectState, Reason};
use freshet_topics::Order;

use crate::faults::Fault;
use crate::world::{Publisher, Scenario, World};

/// What holds at every moment. `None`: it does; else what is wrong.
pub(crate) fn at_every_moment(scenario: &Scenario, world: &World) -> Option<&'static str> {
    let database = &world.database;
    if world.wrong.is_some() {
        return world.wrong;
    }
    let is_counted_once = |(part, counted): (&Part, &i64)| {
        database.live.received.get(part).is_some_and(|received| received.len() == *counted)
    };
    if !database.live.counted.iter().all(is_counted_once) {
        return Some("a row counts twice");
    }
    let stands =
        |(key, greatest): (&u8, &Order)| database.live.rows.get(key).is_some_and(|stored| stored.order == *greatest);
    if !database.live.greatest.iter().all(stands) {
        return Some("the table does not have the newest row that was received of a key");
    }
    let is_applied = |object: &Object| {
        let is_whole = object.rows == Some(database.live.count(object.id, object.generation));
        object.state != ObjectState::Applied || is_whole
    };
    if !database.objects.iter().all(|one| is_applied(&one.object)) {
        return Some("an object is applied, and rows of it were not received");
    }
    let is_spared = Fault::LOSING.iter().all(|fault| world.budget.left(*fault) == scenario.budget.left(*fault));
    if is_spared && database.objects.iter().any(|one| one.object.repairs > 0) {
        return Some("a file was published again though nothing was lost");
    }
    if is_spared && world.mended > 0 {
        return Some("a person had to mend what nothing had broken");
    }
    None
}

/// What holds once nothing is left to do.
pub(crate) fn at_rest(scenario: &Scenario, world: &World) -> Option<&'static str> {
    ledger_at_rest(scenario, world).or_else(|| outputs_at_rest(world))
}

fn outputs_at_rest(world: &World) -> Option<&'static str> {
    let is_idle = world.publishers.iter().all(|publisher| *publisher == Publisher::Idle);
    if !is_idle || !world.database.marks.is_empty() {
        return Some("marks are left");
    }
    let published = world.outputs.as_ref().map(|version| version.content.clone()).unwrap_or_default();
    (published != world.database.content()).then_some("the outputs do not follow the table")
}

/// Of it, what holds of ledger and table.
pub(crate) fn ledger_at_rest(scenario: &Scenario, world: &World) -> Option<&'static str> {
    let database = &world.database;
    let ended = [ObjectState::Applied, ObjectState::Superseded, ObjectState::Rejected];
    if !database.objects.iter().all(|one| ended.contains(&one.object.state)) {
        return Some("an object never ends");
    }
    if database.bookmarks.values().any(|bookmark| bookmark.halted.is_some()) {
        return Some("a partition is halted for good");
    }
    if !world.bucket.iter().all(|(_, put)| is_loaded(scenario, world, *put)) {
        return Some("what S3 holds is not in the table");
    }
    if !database.objects.iter().all(|one| names_what_is_lost(scenario, world, &one.object)) {
        return Some("rows are lost that nobody names");
    }
    None
}

/// Whether the version that a put made, and that S3 still holds, is in the table: by itself, or by the older version
/// that has its content.
fn is_loaded(scenario: &Scenario, world: &World, put: usize) -> bool {
    let version = scenario.version(put);
    let of_key = world.database.of_key(&version.key);
    let Some(mut object) = of_key.last().copied() else { return false };
    if object.version != version {
        return false;
    }
    if let Some(original) = object.reason().and_then(Reason::same_content_as) {
        object = world.database.object(original);
    }
    let content = scenario.content_of(&version);
    let rows = scenario.contents[content].iter();
    let stands = |(row, key): (i64, &u8)| {
        let order = Order { src_ord: object.src_ord, generation: object.generation, row };
        // The same row, or one of a file that stands above this one.
        let stored = world.database.live.rows.get(key);
        let is_beaten = |stored: &crate::database::Stored| {
            let by = world.database.object(stored.object);
            stored.order > order && by.version.key != version.key
        };
        stored.is_some_and(|stored| stored.content == scenario.bytes_of(content) || is_beaten(stored))
    };
    object.state == ObjectState::Applied && (0..).zip(rows).all(stands)
}

/// Whether an object that was given up says what was lost of it.
fn names_what_is_lost(scenario: &Scenario, world: &World, object: &Object) -> bool {
    let Some(Reason::Gone { lost, .. }) = object.reason() else { return true };
    let all = scenario.contents[scenario.content_of(&object.version)].len() as i64;
    let received = world.database.live.count(object.id, object.generation);
    match lost {
        // Rows may have come after it was said.
        Lost::Rows { count, .. } => *count >= all - received,
        // No more than had come by then.
        Lost::From { received: then, .. } | Lost::Unknown { received: then } => *then <= received,
        Lost::Nothing => received == all || received == 0 && object.rows.is_none(),
    }
}
