//! The queues of S3-FIFO, whose entries are segments.
//!
//! A newcomer is appended to the newest segment of the small queue, one that is back to that of the main queue. When the
//! small queue has a tenth of the bytes its oldest segment goes, otherwise the oldest one of the main queue.
//!
//! Each class has segments of its own, so that what is wanted of it holds for all of a segment, from the moment its
//! treatment changes. All classes that are treated plainly are one pair of queues: segments are numbered as they are made,
//! and the oldest of all goes.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use super::segment::Segment;
use crate::cache::class::{Class, Treatment};
use crate::cache::policy::{Claim, Rank, SMALL_DIVISOR, Turn, pass_over, rank};

/// Which queue of its class a segment is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cache::nvme) enum Queue {
    Small,
    Main,
}

/// All segments.
pub(super) struct Queues {
    capacity: u64,
    shelves: Vec<Shelf>,
    /// Of segments that an earlier run left and nobody has read from.
    unclaimed: Arc<Class>,
    has_evicted: bool,
}

/// The segments of one class.
struct Shelf {
    class: Arc<Class>,
    small: Line,
    main: Line,
}

/// Segments of one class in one queue.
#[derive(Default)]
struct Line {
    /// Oldest first.
    segments: VecDeque<Arc<Segment>>,
}

impl Line {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.written_bytes()).sum()
    }
}

impl Shelf {
    fn new(class: &Arc<Class>) -> Self {
        Self { class: Arc::clone(class), small: Line::default(), main: Line::default() }
    }

    fn line(&self, queue: Queue) -> &Line {
        match queue {
            Queue::Small => &self.small,
            Queue::Main => &self.main,
        }
    }

    fn line_mut(&mut self, queue: Queue) -> &mut Line {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.small.segments.iter().chain(&self.main.segments)
    }

    fn bytes(&self) -> u64 {
        self.small.bytes() + self.main.bytes()
    }

    fn is_plain(&self) -> bool {
        self.class.treatment().is_plain()
    }

    /// Whether it is empty and nothing can come.
    fn is_left(&self) -> bool {
        self.segments().next().is_none() && Arc::strong_count(&self.class) == 1
    }
}

impl Queues {
    /// Empty queues for a tier of `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let unclaimed = Class::new("", Treatment::default());
        Self { capacity, shelves: Vec::new(), unclaimed, has_evicted: false }
    }

    /// The newest segment of a class in a queue.
    pub(super) fn newest(&self, class: &Arc<Class>, queue: Queue) -> Option<&Arc<Segment>> {
        let own = self.shelves.iter().find(|shelf| Arc::ptr_eq(&shelf.class, class))?;
        own.line(queue).segments.back()
    }

    /// Queues a segment by its number.
    pub(super) fn enter(&mut self, segment: &Arc<Segment>) {
        let class = Arc::clone(segment.class().unwrap_or(&self.unclaimed));
        self.shelves.retain(|shelf| !shelf.is_left());
        let at =
            self.shelves.iter().position(|shelf| Arc::ptr_eq(&shelf.class, &class)).unwrap_or_else(|| {
                self.shelves.push(Shelf::new(&class));
                self.shelves.len() - 1
            });
        let segments = &mut self.shelves[at].line_mut(segment.queue).segments;
        let place = segments.partition_point(|other| other.id < segment.id);
        segments.insert(place, Arc::clone(segment));
    }

    /// Takes a segment out; `false` when it was not there.
    pub(super) fn leave(&mut self, segment: &Arc<Segment>) -> bool {
        for shelf in &mut self.shelves {
            let segments = &mut shelf.line_mut(segment.queue).segments;
            if let Ok(at) = segments.binary_search_by_key(&segment.id, |other| other.id) {
                return segments.remove(at).is_some();
            }
        }
        false
    }

    pub(super) fn clear(&mut self) {
        self.shelves.clear();
    }

    /// Whether the small queue has its part before anything ever went: what comes then fills the main one.
    pub(super) fn is_filling_main(&self) -> bool {
        let small = || self.shelves.iter().map(|shelf| shelf.small.bytes()).sum::<u64>();
        !self.has_evicted && small() >= self.capacity / SMALL_DIVISOR
    }

    /// When the first of what makes room for `claim` has its turn; `None` when nothing does.
    pub(super) fn first(&self, claim: Claim<'_>) -> Option<Turn> {
        self.turns(claim).into_iter().map(|(turn, _)| turn).min()
    }

    /// Whether anything makes room for `claim`.
    pub(super) fn yields(&self, claim: Claim<'_>) -> bool {
        let yields = |shelf: &Shelf| shelf.segments().next().is_some() && rank(&shelf.class, claim).is_some();
        self.shelves.iter().any(yields) || self.deadest(claim).is_some()
    }

    /// Notes that a newcomer found no room.
    pub(super) fn pass_over(&self, class: &Arc<Class>, bytes: u64) {
        pass_over((class, bytes), self.shelves.iter().map(|shelf| &shelf.class));
    }

    /// The next segment to go for `claim`: one that holds little, the deadest first, else the one whose turn it is.
    pub(super) fn victim(&mut self, claim: Claim<'_>) -> Option<Arc<Segment>> {
        self.has_evicted = true;
        if let Some(dead) = self.deadest(claim) {
            return Some(Arc::clone(dead));
        }
        let (_, shelves) = self.turns(claim).into_iter().min_by_key(|(turn, _)| *turn)?;
        let bytes = |queue| shelves.iter().map(|shelf| shelf.line(queue).bytes()).sum::<u64>();
        let oldest = |queue| {
            let fronts = shelves.iter().filter_map(|shelf| shelf.line(queue).segments.front());
            fronts.min_by_key(|segment| segment.id)
        };
        let (small, main) = (bytes(Queue::Small), bytes(Queue::Main));
        let is_small_long = small * SMALL_DIVISOR >= small + main;
        let queues = if is_small_long { [Queue::Small, Queue::Main] } else { [Queue::Main, Queue::Small] };
        queues.into_iter().find_map(oldest).map(Arc::clone)
    }

    /// The segment that is dead for the most part, if there is one that gives room to `claim`. Its class loses nothing.
    fn deadest(&self, claim: Claim<'_>) -> Option<&Arc<Segment>> {
        let is_helpful = |shelf: &&Shelf| match claim {
            Claim::Within(class) => shelf.class.is_kin(class),
            Claim::Of(_) | Claim::Watermark => true,
        };
        let segments = self.shelves.iter().filter(is_helpful).flat_map(Shelf::segments);
        segments.filter(|segment| segment.is_mostly_dead()).max_by_key(|segment| segment.dead_bytes())
    }

    /// What makes room for `claim`: each class with a wish of its own, and all others together.
    fn turns(&self, claim: Claim<'_>) -> Vec<(Turn, Vec<&Shelf>)> {
        let mut plain: Option<(Rank, Vec<&Shelf>)> = None;
        let mut turns = Vec::new();
        let shelves = self.shelves.iter().filter(|shelf| shelf.segments().next().is_some());
        for (shelf, rank) in shelves.filter_map(|shelf| Some((shelf, rank(&shelf.class, claim)?))) {
            if shelf.is_plain() {
                plain.get_or_insert((rank, Vec::new())).1.push(shelf);
            } else {
                turns.push(((rank, Reverse(shelf.bytes())), vec![shelf]));
            }
        }
        turns.extend(plain.map(|(rank, shelves)| {
            let bytes = shelves.iter().map(|shelf| shelf.bytes()).sum();
            ((rank, Reverse(bytes)), shelves)
        }));
        turns
    }
}
