//! The search for an order of the operations on one register.
//!
//! Invocations and responses stand in a list in the order of time. Whatever was invoked before the list's first response
//! may be the next to take effect; it is then taken off the list, together with its response. A response that comes first
//! while its operation has not taken effect is a dead end, from which the search steps back. A configuration that was
//! reached once is not searched again.

use std::collections::HashSet;
use std::hash::Hash;

use super::history::{Operation, Outcome};
use super::register::Held;

/// What the search came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that explains every answer.
    Order,
    /// There is none: the best that was found, and the operation whose response could not be reached with it.
    Nothing { order: Vec<usize>, misfit: usize },
    /// So many configurations were looked at that the search was given up.
    Bound,
}

/// Searches the operations of one register, which holds `initial` at first.
pub(super) fn search<K, V>(operations: &[Operation<K, V>], initial: &V, configurations_max: usize) -> Found
where
    V: Ord + Hash + Clone,
{
    let mut search = Search::new(operations, initial);
    while search.answers_open > 0 {
        if search.seen.len() > configurations_max {
            return Found::Bound;
        }
        if !search.advance() {
            let (_, misfit, order) = search.best;
            return Found::Nothing { order, misfit };
        }
    }
    Found::Order
}

struct Search<'a, K, V> {
    operations: &'a [Operation<K, V>],
    events: EventList,
    /// Where the search looks next.
    at: usize,
    held: Held<V>,
    /// Operations that have taken effect, a bit each.
    effective: Vec<u64>,
    /// Answered operations that have not taken effect.
    answers_open: usize,
    /// What has taken effect, in order, with what the register held before.
    order: Vec<(usize, Held<V>)>,
    seen: HashSet<(Vec<u64>, Held<V>)>,
    /// The latest response at which the search had to step back, its operation, and the order that led there.
    best: (usize, usize, Vec<usize>),
}

impl<'a, K, V: Ord + Hash + Clone> Search<'a, K, V> {
    fn new(operations: &'a [Operation<K, V>], initial: &V) -> Self {
        let events = EventList::new(operations);
        Self {
            operations,
            at: events.first(),
            answers_open: events.answers(),
            events,
            held: Held::Value(initial.clone()),
            effective: vec![0; operations.len().div_ceil(64)],
            order: Vec::new(),
            seen: HashSet::new(),
            best: (0, 0, Vec::new()),
        }
    }

    /// One step; false when every way was tried.
    fn advance(&mut self) -> bool {
        match self.events.at(self.at) {
            Some(Event::Invoked(operation)) => {
                if !self.take_effect(operation) {
                    self.at = self.events.after(self.at);
                }
                true
            }
            Some(Event::Answered(operation)) => {
                self.remember_dead_end(operation);
                self.step_back()
            }
            None => self.step_back(),
        }
    }

    fn take_effect(&mut self, index: usize) -> bool {
        let operation = &self.operations[index];
        let after = match &operation.outcome {
            Outcome::Answered { answer, .. } => self.held.answered(&operation.request, answer),
            Outcome::Unknown => self.held.unanswered(&operation.request),
            Outcome::Failed => None,
        };
        let Some(after) = after else {
            return false;
        };
        self.flip(index);
        if !self.seen.insert((self.effective.clone(), after.clone())) {
            self.flip(index);
            return false;
        }
        let before = std::mem::replace(&mut self.held, after);
        self.order.push((index, before));
        self.answers_open -= self.events.take_off(index);
        self.at = self.events.first();
        true
    }

    fn step_back(&mut self) -> bool {
        let Some((index, before)) = self.order.pop() else {
            return false;
        };
        self.held = before;
        self.flip(index);
        self.answers_open += self.events.put_back(index);
        self.at = self.events.after(self.events.invocation(index));
        true
    }

    fn flip(&mut self, index: usize) {
        self.effective[index / 64] ^= 1 << (index % 64);
    }

    fn remember_dead_end(&mut self, misfit: usize) {
        let (latest, _, order) = &self.best;
        if (self.at, self.order.len()) > (*latest, order.len()) {
            let order = self.order.iter().map(|(index, _)| *index).collect();
            self.best = (self.at, misfit, order);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Invoked(usize),
    Answered(usize),
}

/// Events in the order of time, linked both ways so that any can be taken off and put back. Place 0 is the list's head, and
/// stands for its end as well.
struct EventList {
    events: Vec<Option<Event>>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each operation's invocation stands, and its response.
    places: Vec<(usize, Option<usize>)>,
}

impl EventList {
    fn new<K, V>(operations: &[Operation<K, V>]) -> Self {
        let mut times = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            match &operation.outcome {
                Outcome::Answered { at, .. } => {
                    times.push((operation.invoked_at, Event::Invoked(index)));
                    times.push((*at, Event::Answered(index)));
                }
                Outcome::Unknown => times.push((operation.invoked_at, Event::Invoked(index))),
                Outcome::Failed => {}
            }
        }
        // At the same nanosecond two operations overlap: invocations come first.
        times.sort_by_key(|(at, event)| (*at, matches!(event, Event::Answered(_))));
        let events: Vec<Option<Event>> = std::iter::once(None)
            .chain(times.into_iter().map(|(_, event)| Some(event)))
            .collect();
        let length = events.len();
        let mut places = vec![(0, None); operations.len()];
        for (place, event) in events.iter().enumerate() {
            match event {
                Some(Event::Invoked(index)) => places[*index].0 = place,
                Some(Event::Answered(index)) => places[*index].1 = Some(place),
                None => {}
            }
        }
        Self {
            events,
            next: (1..=length).map(|place| place % length).collect(),
            previous: (0..length).map(|place| (place + length - 1) % length).collect(),
            places,
        }
    }

    fn answers(&self) -> usize {
        self.places.iter().filter(|(_, answer)| answer.is_some()).count()
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn after(&self, place: usize) -> usize {
        self.next[place]
    }

    fn at(&self, place: usize) -> Option<Event> {
        self.events[place]
    }

    fn invocation(&self, operation: usize) -> usize {
        self.places[operation].0
    }

    /// Takes an operation off the list; how many answers left with it.
    fn take_off(&mut self, operation: usize) -> usize {
        let (invocation, answer) = self.places[operation];
        self.unlink(invocation);
        answer.map_or(0, |answer| {
            self.unlink(answer);
            1
        })
    }

    /// Puts back what was taken off last; how many answers came with it.
    fn put_back(&mut self, operation: usize) -> usize {
        let (invocation, answer) = self.places[operation];
        let answers = answer.map_or(0, |answer| {
            self.link(answer);
            1
        });
        self.link(invocation);
        answers
    }

    fn unlink(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = place;
        self.previous[next] = place;
    }
}
