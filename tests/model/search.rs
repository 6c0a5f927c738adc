//! The world as `stateright` searches it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use stateright::{Model, Property};

use crate::faults::Fault;
use crate::possible::Action;
use crate::properties::{at_every_moment, at_rest};
use crate::world::{Publisher, Scenario, Version, World};

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::of(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What is wrong stays wrong: nothing is learnt from going on.
        if world.wrong.is_none() {
            actions.extend(world.steps(self));
            actions.extend(world.faults(self));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(self, action).canonical())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("every moment", |scenario: &Scenario, world: &World| {
                at_every_moment(scenario, world).is_none()
            }),
            // `eventually` alone would not do: the search drops it where two histories meet, or one goes round.
            Property::always("rest", |scenario: &Scenario, world: &World| {
                !world.is_at_rest(scenario) || at_rest(scenario, world).is_none()
            }),
            Property::eventually("every object ends", |scenario: &Scenario, world: &World| {
                world.dropped == scenario.puts.len() && world.is_at_rest(scenario)
            }),
            Property::sometimes("all is well with no fault left", |scenario: &Scenario, world: &World| {
                world.is_at_rest(scenario) && Fault::ALL.iter().all(|fault| world.budget.left(*fault) == 0)
            }),
        ];
        properties.extend(Fault::ALL.iter().filter(|fault| self.budget.left(**fault) > 0).map(|fault| reached(*fault)));
        properties
    }
}

impl World {
    /// The same world with its names in order: which of two listeners it is that works, which number a mark or a version
    /// has, makes no difference to what may follow.
    fn canonical(mut self) -> World {
        self.listeners.sort_by_cached_key(hash_of);
        let marks = |publisher: &Publisher| match publisher {
            Publisher::Idle | Publisher::Looked(_) => Vec::new(),
            Publisher::Derived { marks, .. } | Publisher::Unsure { marks, .. } | Publisher::Swapped(marks) => {
                marks.clone()
            }
        };
        let backed_up = self.backup.iter().flat_map(|backup| backup.marks.iter().copied());
        let held = self.publishers.iter().flat_map(marks).chain(backed_up);
        let used: BTreeSet<u16> = self.database.marks.iter().copied().chain(held).collect();
        let number: BTreeMap<u16, u16> = used.iter().copied().zip(0..).collect();
        let renumber = |marks: &mut Vec<u16>| marks.iter_mut().for_each(|mark| *mark = number[mark]);
        for database in [Some(&mut self.database), self.backup.as_deref_mut()].into_iter().flatten() {
            database.marks = database.marks.iter().map(|mark| number[mark]).collect();
            // A backup gives numbers a second time, as Postgres would: marks in flight are then another's.
            database.next_mark = used.range(..database.next_mark).count() as u16;
        }
        let lowest = self.versions().map(|version| version.number).min().unwrap_or(1) - 1;
        let lowered = |version: &mut Arc<Version>| Arc::make_mut(version).number -= lowest;
        self.outputs.iter_mut().for_each(lowered);
        for publisher in &mut self.publishers {
            match publisher {
                Publisher::Idle => {}
                Publisher::Looked(seen) => seen.iter_mut().for_each(lowered),
                Publisher::Derived { seen, next, marks } => {
                    seen.iter_mut().for_each(lowered);
                    lowered(next);
                    renumber(marks);
                }
                Publisher::Unsure { next, marks } => {
                    lowered(next);
                    renumber(marks);
                }
                Publisher::Swapped(marks) => renumber(marks),
            }
        }
        self.publishers.sort_by_cached_key(hash_of);
        self
    }

    fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        let held = self.publishers.iter().flat_map(|publisher| match publisher {
            Publisher::Idle | Publisher::Swapped(_) => [None, None],
            Publisher::Looked(seen) => [seen.as_ref(), None],
            Publisher::Derived { seen, next, .. } => [seen.as_ref(), Some(next)],
            Publisher::Unsure { next, .. } => [Some(next), None],
        });
        held.flatten().chain(&self.outputs)
    }

    /// Whether nobody has anything left to do.
    pub(crate) fn is_at_rest(&self, scenario: &Scenario) -> bool {
        self.steps(scenario).is_empty()
    }

    fn has_met(&self, scenario: &Scenario, fault: Fault) -> bool {
        self.budget.left(fault) < scenario.budget.left(fault)
    }
}

/// The fault is met, and all comes to rest after it.
fn reached(fault: Fault) -> Property<Scenario> {
    macro_rules! each {
        ($($name:ident),*) => {
            match fault {
                $(Fault::$name => Property::sometimes(stringify!($name), |scenario: &Scenario, world: &World| {
                    world.has_met(scenario, Fault::$name) && world.is_at_rest(scenario)
                })),*
            }
        };
    }
    each!(
        Crash,
        LeaseRunsOut,
        AckLost,
        Delay,
        Duplicate,
        Rebalance,
        CommitLost,
        PutLost,
        ForeignAnswer,
        Retention,
        LogCut,
        TopicMadeAgain,
        Restore,
        SendAgain,
        SendAsNew,
        Delete,
        Replay,
        Shadow
    )
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
