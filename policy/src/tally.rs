//! How often what is remembered was asked for: counted where it is remembered, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hauberk_identity::UnixMillis;

/// How many of the things that share a remembered decision are counted one by one.
const SEATS: usize = 8;

/// The counters of one caller's memory of one action and resource. Things are told apart by marks: numbers that stand
/// for a method and path, and are not 0.
#[derive(Debug)]
pub struct Tally {
    seats: [Seat; SEATS],
    others: Counter,
    /// Every mark has the same decision, so that those without a seat can be counted together.
    is_settled: bool,
}

#[derive(Debug, Default)]
struct Seat {
    /// 0: free.
    mark: AtomicU64,
    counter: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    last: AtomicU64,
}

/// What has come of counting one question.
#[derive(Debug)]
pub enum Counted {
    /// It was counted.
    Yes,
    /// It was counted, and is the first with its mark: whoever reads the counters must note what the seat stands for.
    First {
        /// The counters.
        tally: Arc<Tally>,
        /// Which of them.
        seat: usize,
    },
    /// Its decision is not remembered, or there is no seat left: count it yourself.
    No,
}

/// How often something was asked for since that was last taken, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How often; never 0.
    pub times: u64,
    /// When it was last.
    pub last: UnixMillis,
}

impl Tally {
    /// Nothing was counted yet.
    pub(crate) fn new(is_settled: bool) -> Arc<Self> {
        Arc::new(Self { seats: Default::default(), others: Counter::default(), is_settled })
    }

    pub(crate) fn count(self: &Arc<Self>, mark: u64, at: UnixMillis) -> Counted {
        for (index, seat) in self.seats.iter().enumerate() {
            let mut held = seat.mark.load(Ordering::Relaxed);
            if held == 0 {
                match seat.mark.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        seat.counter.add(at);
                        return Counted::First { tally: Arc::clone(self), seat: index };
                    }
                    Err(other) => held = other,
                }
            }
            if held == mark {
                seat.counter.add(at);
                return Counted::Yes;
            }
        }
        if !self.is_settled {
            return Counted::No;
        }
        self.others.add(at);
        Counted::Yes
    }

    /// Takes what was counted on a seat.
    pub fn take(&self, seat: usize) -> Option<Count> {
        self.seats.get(seat)?.counter.take()
    }

    /// Takes what was counted without a seat.
    pub fn take_others(&self) -> Option<Count> {
        self.others.take()
    }

    /// Gives a seat back whose counters nobody will read. What was counted on it so far is whoever had it's to tell.
    pub fn free(&self, seat: usize) -> Option<Count> {
        let seat = self.seats.get(seat)?;
        seat.mark.store(0, Ordering::Relaxed);
        seat.counter.take()
    }
}

impl Counter {
    fn add(&self, at: UnixMillis) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last.store(at.0, Ordering::Relaxed);
    }

    fn take(&self) -> Option<Count> {
        let times = self.count.swap(0, Ordering::Relaxed);
        (times > 0).then(|| Count { times, last: UnixMillis(self.last.load(Ordering::Relaxed)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_a_seat_until_there_is_none_left() {
        for is_settled in [true, false] {
            let tally = Tally::new(is_settled);
            for mark in 1..=SEATS as u64 {
                let counted = tally.count(mark, UnixMillis(mark));
                assert!(
                    matches!(counted, Counted::First { seat, .. } if seat as u64 == mark - 1),
                    "{counted:?}"
                );
                assert!(matches!(tally.count(mark, UnixMillis(10 * mark)), Counted::Yes));
            }
            let counted = tally.count(99, UnixMillis(7));
            assert_eq!(matches!(counted, Counted::Yes), is_settled, "{counted:?}");
            let others = is_settled.then_some(Count { times: 1, last: UnixMillis(7) });
            assert_eq!(tally.take_others(), others);
            assert_eq!(tally.take(2), Some(Count { times: 2, last: UnixMillis(30) }));
            assert_eq!(tally.take(2), None, "it was taken");
            assert_eq!(tally.take(SEATS), None);
            assert_eq!(tally.free(3), Some(Count { times: 2, last: UnixMillis(40) }));
            assert_eq!(tally.free(SEATS), None);
            assert!(matches!(tally.count(4, UnixMillis(1)), Counted::First { seat: 3, .. }));
        }
    }

    #[test]
    fn nothing_is_lost_among_threads() {
        let tally = Tally::new(true);
        let firsts: usize = std::thread::scope(|scope| {
            let counting: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let marks = (0..10_000_u64).map(|number| number % 12 + 1);
                        let counted = marks.map(|mark| tally.count(mark, UnixMillis(1)));
                        counted.filter(|counted| matches!(counted, Counted::First { .. })).count()
                    })
                })
                .collect();
            counting.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(firsts, SEATS);
        let counted: u64 = (0..SEATS).filter_map(|seat| tally.take(seat)).map(|count| count.times).sum();
        assert_eq!(counted + tally.take_others().unwrap().times, 40_000);
    }
}
