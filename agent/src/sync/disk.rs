//! Where what is in force is brought to the disk: one thing after the other, beside everything else. A disk may hang,
//! and nobody who hears what is to be in force waits for it; only what says that something is kept does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::agent::v1 as pb;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock::millis;
use crate::credentials::Credentials;
use crate::state::{Mark, State, StateError};

/// How long after the disk has refused something it is asked again to take it.
const AGAIN: Duration = Duration::from_secs(1);
/// A disk that has not answered for so long is reported.
const HANGS: Duration = Duration::from_secs(10);

/// What is to be on the disk, and what brings it there. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    state: Arc<State>,
    queue: watch::Sender<Queue>,
}

/// Something that is in force, and that a restart is to find.
#[derive(Debug)]
pub(super) enum Write {
    Denylist(pb::SignedDenylist, Mark),
    Trust(Credentials),
    TokenKeys(pb::JwtKeys),
    /// The node's own view, and its number.
    NodeView(pb::SignedView, Mark),
    /// Nothing of the node any longer, and how far we have come: the view that tells it goes.
    NodeGone(Mark),
    /// Without it, somebody who puts an older view back would find an agent that was killed meanwhile ready to obey it.
    Mark(Mark),
    ServiceViews(Vec<pb::SignedView>),
    Endpoints(Vec<pb::EndpointsUpdate>),
    ConfirmedAt(UnixMillis),
}

/// Of each there is one at the most, the newest. In the order in which they are written, and in which they are told:
/// whom to believe comes first, for a restart takes a denylist only from them. Where the disk refuses that, the denylist
/// is written all the same: a restart that cannot believe it lets nobody in before it has another, and by an older one
/// it would let in who was refused since. A mark comes after the view that it is
/// of, for a view that is older than the mark is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Trust,
    Denylist,
    TokenKeys,
    Node,
    Mark,
    ServiceViews,
    Endpoints,
    ConfirmedAt,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Kind, Waiting>,
    /// Counts what was to be written so far.
    count: u64,
    /// How far a restart knows that we have come.
    kept_mark: Mark,
    /// The number of the denylist that the disk has, and the key that signed it.
    kept_denylist: (Mark, String),
    /// Nothing more will come.
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    write: Arc<Write>,
    /// The disk was asked to take it, and has refused.
    is_refused: bool,
}

impl Disk {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, queue: watch::Sender::default() }
    }

    /// What it has.
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Has it written, in place of what was to be written of its kind and was not. Waits for nothing.
    pub(super) fn keep(&self, write: Write) {
        self.queue.send_modify(|queue| queue.add(write));
    }

    /// Whether a restart would find all of this kind that was to be written.
    pub(super) fn has(&self, kind: Kind) -> bool {
        !self.queue.borrow().waiting.contains_key(&kind)
    }

    /// The same, or it was refused, which is reported.
    pub(super) fn has_answered(&self, kind: Kind) -> bool {
        self.queue.borrow().waiting.get(&kind).is_none_or(|waiting| waiting.is_refused)
    }

    /// Notes how far a restart would know that we have come.
    pub(super) fn has_mark(&self, mark: Mark) {
        self.queue.send_modify(|queue| queue.kept_mark = mark);
    }

    /// Notes which denylist a restart would find, and the key that signed it.
    pub(super) fn has_denylist(&self, mark: Mark, key: String) {
        self.queue.send_modify(|queue| queue.kept_denylist = (mark, key));
    }

    /// The denylist that a restart would find, and the key that signed it.
    pub(super) fn denylist(&self) -> (Mark, String) {
        self.queue.borrow().kept_denylist.clone()
    }

    /// Whenever something was written, or is to be.
    pub(super) fn changes(&self) -> watch::Receiver<Queue> {
        self.queue.subscribe()
    }

    /// Nothing more will come: what the disk does not have is tried once more, and [`Disk::run`] ends.
    pub(super) fn close(&self) {
        self.queue.send_modify(|queue| {
            queue.count += 1;
            queue.is_closed = true;
        });
    }

    /// Writes what is to be written, and again what was refused, until [`Disk::close`].
    pub(super) async fn run(&self) {
        let mut changes = self.queue.subscribe();
        loop {
            let count = changes.borrow_and_update().count;
            self.write_all().await;
            let is_refused = {
                let queue = self.queue.borrow();
                if queue.is_closed && queue.count == count {
                    return;
                }
                !queue.waiting.is_empty()
            };
            let anew = async {
                // The sender is ours.
                let _ = changes.wait_for(|queue| queue.count != count).await;
            };
            tokio::select! {
                () = anew => {}
                () = sleep(AGAIN), if is_refused => {}
            }
        }
    }

    /// Tries once to write each that waits.
    pub(super) async fn write_all(&self) {
        let mut after = Bound::Unbounded;
        loop {
            let next = self.queue.borrow().next(after);
            let Some((kind, write)) = next else { return };
            self.write(kind, &write).await;
            after = Bound::Excluded(kind);
        }
    }

    async fn write(&self, kind: Kind, write: &Arc<Write>) {
        let (state, this) = (Arc::clone(&self.state), Arc::clone(write));
        // Off the runtime's threads.
        let mut writing = tokio::task::spawn_blocking(move || this.write(&state));
        let answer = if let Ok(answer) = timeout(HANGS, &mut writing).await {
            answer
        } else {
            let for_ms = millis(HANGS);
            tracing::error!(event = "state_not_saved", what = ?kind, for_ms, "the disk does not answer; what is in force stays so");
            writing.await
        };
        let is_kept = match answer {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(event = "state_not_saved", what = ?kind, %error);
                false
            }
            Err(error) => {
                tracing::error!(event = "state_not_saved", what = ?kind, %error);
                false
            }
        };
        self.queue.send_modify(|queue| queue.end(kind, write, is_kept));
    }
}

impl Queue {
    fn add(&mut self, write: Write) {
        let kind = write.kind();
        if let Write::Mark(mark) = write
            && mark <= self.highest_mark()
        {
            return;
        }
        self.count += 1;
        self.waiting.insert(kind, Waiting { write: Arc::new(write), is_refused: false });
    }

    /// That is kept, or about to be.
    fn highest_mark(&self) -> Mark {
        match self.waiting.get(&Kind::Mark).map(|waiting| &*waiting.write) {
            Some(Write::Mark(mark)) => self.kept_mark.max(*mark),
            _ => self.kept_mark,
        }
    }

    fn next(&self, after: Bound<Kind>) -> Option<(Kind, Arc<Write>)> {
        let mut rest = self.waiting.range((after, Bound::Unbounded));
        let (mut kind, mut next) = rest.next()?;
        // Who is to be believed may be others by now than were written before the denylist.
        if *kind == Kind::Denylist
            && let Some((trust, newer)) = self.waiting.get_key_value(&Kind::Trust)
            && !newer.is_refused
        {
            (kind, next) = (trust, newer);
        }
        Some((*kind, Arc::clone(&next.write)))
    }

    fn end(&mut self, kind: Kind, write: &Arc<Write>, is_kept: bool) {
        match &**write {
            // Whether or not the disk has the view: the one before is not to be obeyed again.
            Write::NodeView(_, mark) => self.add(Write::Mark(*mark)),
            Write::Mark(mark) | Write::NodeGone(mark) if is_kept => {
                self.kept_mark = self.kept_mark.max(*mark)
            }
            Write::Denylist(signed, mark) if is_kept => self.kept_denylist = (*mark, signed.key_id.clone()),
            _ => {}
        }
        // Something newer may be waiting by now.
        if let Some(waiting) = self.waiting.get_mut(&kind)
            && Arc::ptr_eq(&waiting.write, write)
        {
            waiting.is_refused = true;
            if is_kept {
                self.waiting.remove(&kind);
            }
        }
    }
}

impl Write {
    fn kind(&self) -> Kind {
        match self {
            Self::Denylist(..) => Kind::Denylist,
            Self::Trust(_) => Kind::Trust,
            Self::TokenKeys(_) => Kind::TokenKeys,
            Self::NodeView(..) | Self::NodeGone(_) => Kind::Node,
            Self::Mark(_) => Kind::Mark,
            Self::ServiceViews(_) => Kind::ServiceViews,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::ConfirmedAt(_) => Kind::ConfirmedAt,
        }
    }

    fn write(&self, state: &State) -> Result<(), StateError> {
        match self {
            Self::Denylist(signed, _) => state.save_denylist(signed),
            Self::Trust(credentials) => credentials.save_trust(),
            Self::TokenKeys(keys) => state.save_jwt_keys(keys),
            Self::NodeView(signed, _) => state.save_node_view(signed),
            Self::NodeGone(mark) => {
                let marked = state.save_mark(*mark);
                // Whatever became of that.
                state.forget_node()?;
                marked
            }
            Self::Mark(mark) => state.save_mark(*mark),
            Self::ServiceViews(views) => of_our_node(state, || state.save_service_views(views)),
            Self::Endpoints(endpoints) => of_our_node(state, || state.save_endpoints(endpoints)),
            Self::ConfirmedAt(at) => of_our_node(state, || state.save_view_confirmed_at(at.0)),
        }
    }
}

/// What was on its way when our node went is of no use to whoever joins next.
fn of_our_node(state: &State, save: impl FnOnce() -> Result<(), StateError>) -> Result<(), StateError> {
    match state.keeping() {
        Ok(_keeping) => save(),
        Err(_) => Ok(()),
    }
}
